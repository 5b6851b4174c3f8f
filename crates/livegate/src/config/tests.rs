use proptest::prelude::*;

use super::*;

/// The example of the documentation, with every key.
const COMPLETE: &str = include_str!("tests/complete.toml");

/// "line:column: key: message" of everything that is wrong.
fn mistakes(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// A file of one line under a header.
fn mistake_under(header: &str, line: &str) -> Vec<String> {
    mistakes(&format!("{header}\n{line}"))
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.http.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(config.registry.mode, RegistryMode::Embedded);
    assert!(config.discovery.auto_routes);
}

#[test]
fn the_documented_values_are_the_defaults() {
    let complete = parse(COMPLETE).unwrap();
    let workers = complete.http.workers;
    assert_eq!(workers, 2);
    assert_eq!(
        complete.http,
        HttpConfig {
            workers,
            ..HttpConfig::default()
        }
    );
    assert_eq!(complete.admin, AdminConfig::default());
    assert_eq!(complete.registry, RegistryConfig::default());
    assert_eq!(complete.discovery, DiscoveryConfig::default());
    let orders = &complete.services["orders"];
    let default = ServiceConfig::new("orders", "/services", None);
    assert_eq!(orders.health_check.kind, HealthCheckKind::Tcp);
    assert_eq!(
        orders.health_check,
        HealthCheckConfig {
            kind: HealthCheckKind::Tcp,
            ..default.health_check.clone()
        }
    );
    assert_eq!(
        *orders,
        ServiceConfig {
            path: "/real_server".into(),
            upstream_path: Some("/base".into()),
            weights: [("127.0.0.1:2003".to_owned(), 20)].into(),
            health_check: orders.health_check.clone(),
            ..default
        }
    );
}

#[test]
fn the_documented_service_list_and_routes_are_read() {
    let complete = parse(COMPLETE).unwrap();
    let instance = |port| InstanceConfig {
        address: format!("127.0.0.1:{port}"),
        weight: Some(20),
    };
    let legacy = &complete.services["legacy"];
    assert_eq!(legacy.instances, Some(vec![instance(2003), instance(2004)]));
    assert_eq!(legacy.health_check.kind, HealthCheckKind::Tcp);
    assert_eq!(legacy.path, "/services/legacy");
    let [orders, internal] = &complete.routes[..] else {
        panic!("two routes")
    };
    assert_eq!(orders.hosts, ["api.example.com", "*.example.com"]);
    assert_eq!(orders.path, PathMatch::Prefix("/orders".into()));
    assert_eq!(orders.methods, ["GET"]);
    assert_eq!(
        orders.headers,
        [("x-canary".to_owned(), "1".to_owned())].into()
    );
    assert_eq!(orders.action, RouteAction::Service("orders".into()));
    assert!(orders.strip_prefix);
    assert_eq!(internal.action, RouteAction::Status(403));
}

#[test]
fn every_value_is_read() {
    let config = parse(
        r#"
        [http]
        listen = ["0.0.0.0:80", "[::]:80"]
        workers = 3
        header_timeout = "1500ms"
        idle_timeout = "1m30s"
        header_bytes_max = "64KiB"
        headers_max = 50
        body_bytes_max = "2GiB"
        trusted_proxies = ["10.0.0.0/8", "::1"]
        shutdown_timeout = "0s"
        access_log = "/var/log/livegate.log"
        [admin]
        listen = "0.0.0.0:9901"
        token_file = "/etc/livegate/token"
        [registry]
        mode = "external"
        hosts = "zk1:2181,zk2:2181/chroot"
        data_dir = "a"
        session_timeout = "4s"
        auth_file = "c"
        tls_ca = "d"
        tls_cert = "e"
        tls_key = "f"
        tls_server_name = "zk.example.com"
        [discovery]
        root = "/apps"
        auto_routes = false
        layout = "auto"
        hold_grace = "2m"
        forget_after = "3m"
        snapshot_dir = "b"
        [services.a]
        balance = "maglev"
        hash_on = "header:X-User"
        default_weight = 7
        warm_up = "1h"
        upstream_path = "/v1/"
        health_check = { type = "http", path = "/up?x", expect = "200, 204-206", interval = "1s", timeout = "100ms", fall = 3, rise = 4 }
        outlier = { consecutive_failures = 0, base_ejection = "1s", ejected_percent_max = 100 }
        retry = { attempts = 1, budget_percent = 0 }
        timeouts = { connect = "2s", response_head = "3s", idle = "4s" }
        pool = { idle_max = 0, idle_timeout = "5s" }
        "#,
    )
    .unwrap();
    assert_eq!(
        config.http,
        HttpConfig {
            listen: vec!["0.0.0.0:80".parse().unwrap(), "[::]:80".parse().unwrap()],
            workers: 3,
            header_timeout: Duration::from_millis(1500),
            idle_timeout: Duration::from_secs(90),
            header_bytes_max: 65536,
            headers_max: 50,
            body_bytes_max: Some(2 << 30),
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            shutdown_timeout: Duration::ZERO,
            access_log: AccessLog::File("/var/log/livegate.log".into()),
        }
    );
    assert_eq!(config.admin.token_file, Some("/etc/livegate/token".into()));
    assert_eq!(
        config.registry,
        RegistryConfig {
            mode: RegistryMode::External,
            hosts: "zk1:2181,zk2:2181/chroot".into(),
            data_dir: "a".into(),
            session_timeout: Duration::from_secs(4),
            config_path: None,
            auth_file: Some("c".into()),
            tls_ca: Some("d".into()),
            tls_cert: Some("e".into()),
            tls_key: Some("f".into()),
            tls_server_name: Some("zk.example.com".into()),
        }
    );
    assert_eq!(
        config.discovery,
        DiscoveryConfig {
            root: "/apps".into(),
            auto_routes: false,
            layout: Layout::Auto,
            hold_grace: Duration::from_secs(120),
            forget_after: Duration::from_secs(180),
            snapshot_dir: "b".into(),
        }
    );
    let status = |first, last| StatusRange { first, last };
    assert_eq!(
        config.services["a"],
        ServiceConfig {
            hold_grace: Duration::from_secs(120),
            path: "/apps/a".into(),
            upstream_path: Some("/v1".into()),
            balance: Balance::Maglev,
            hash_on: HashOn::Header("x-user".into()),
            default_weight: 7,
            weights: BTreeMap::new(),
            warm_up: Duration::from_secs(3600),
            health_check: HealthCheckConfig {
                kind: HealthCheckKind::Http,
                path: "/up?x".into(),
                expect: vec![status(200, 200), status(204, 206)],
                interval: Duration::from_secs(1),
                timeout: Duration::from_millis(100),
                fall: 3,
                rise: 4,
            },
            outlier: OutlierConfig {
                consecutive_failures: 0,
                base_ejection: Duration::from_secs(1),
                ejected_percent_max: 100,
            },
            retry: RetryConfig {
                attempts: 1,
                budget_percent: 0
            },
            timeouts: TimeoutsConfig {
                connect: Duration::from_secs(2),
                response_head: Duration::from_secs(3),
                idle: Duration::from_secs(4),
            },
            pool: PoolConfig {
                idle_max: 0,
                idle_timeout: Duration::from_secs(5)
            },
            instances: None,
        }
    );
}

#[test]
fn hash_on_and_balance_in_all_spellings() {
    for (text, expected) in [
        ("path", HashOn::Path),
        ("uri", HashOn::Uri),
        ("client-ip", HashOn::ClientIp),
        ("header:X-A", HashOn::Header("x-a".into())),
        ("cookie:Session", HashOn::Cookie("Session".into())),
        ("query:user", HashOn::Query("user".into())),
    ] {
        let config = parse(&format!("[services.a]\nhash_on = \"{text}\"")).unwrap();
        assert_eq!(config.services["a"].hash_on, expected);
    }
    for balance in Balance::ALL {
        let config = parse(&format!("[services.a]\nbalance = \"{balance}\"")).unwrap();
        assert_eq!(config.services["a"].balance, balance);
    }
}

#[test]
fn paths_of_routes_are_read_as_requests_are() {
    let route = |line: &str| {
        let text = format!("[[routes]]\nstatus = 404\n{line}");
        parse(&text)
            .unwrap_or_else(|errors| panic!("{text}: {errors:?}"))
            .routes[0]
            .clone()
    };
    let prefix = |path: &str| PathMatch::Prefix(path.into());
    for (line, expected) in [
        ("", prefix("/")),
        ("path = \"/\"", prefix("/")),
        ("path = \"//\"", prefix("/")),
        ("path = \"/a/\"", prefix("/a")),
        ("path = \"/a//b\"", prefix("/a/b")),
        ("path = \"/caf%C3%A9\"", prefix("/café")),
        ("path = \"/café au lait\"", prefix("/café au lait")),
        ("path = \"/a%2fb\"", prefix("/a%2Fb")),
        ("path_exact = \"/a/\"", PathMatch::Exact("/a/".into())),
        (
            "path_regex = '^/v[0-9]+/'",
            PathMatch::Regex("^/v[0-9]+/".into()),
        ),
    ] {
        assert_eq!(route(line).path, expected, "{line}");
    }
    let hosts = route(r#"hosts = ["A.Example.com.", "*.B.c", "[::1]", "10.0.0.1", "a_b"]"#).hosts;
    assert_eq!(
        hosts,
        ["a.example.com", "*.b.c", "[::1]", "10.0.0.1", "a_b"]
    );
}

#[test]
fn a_bare_number_says_which_unit_to_write() {
    for (header, line, expected) in [
        (
            "[http]",
            "header_timeout = 10",
            "2:18: http.header_timeout: 10 has no unit: write \"10s\" for seconds (units: ms, s, m, h)",
        ),
        (
            "[http]",
            "idle_timeout = 7.5",
            "2:16: http.idle_timeout: 7.5 has no unit: write \"7.5s\" for seconds (units: ms, s, m, h)",
        ),
        (
            "[services.a.timeouts]",
            "connect = \"250\"",
            "2:11: services.a.timeouts.connect: \"250\" has no unit: write \"250s\" for seconds (units: ms, s, m, h)",
        ),
        (
            "[http]",
            "body_bytes_max = 1048576",
            "2:18: http.body_bytes_max: 1048576 has no unit: write \"1048576B\" for bytes (units: B, KiB, MiB, GiB)",
        ),
        (
            "[http]",
            "header_bytes_max = \"32\"",
            "2:20: http.header_bytes_max: \"32\" has no unit: write \"32B\" for bytes (units: B, KiB, MiB, GiB)",
        ),
    ] {
        assert_eq!(mistake_under(header, line), [expected]);
    }
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    for (text, expected) in [
        (
            "[htp]",
            "1:2: htp: unknown key, the nearest known one is \"http\"",
        ),
        (
            "[service.a]",
            "1:2: service: unknown key, the nearest known one is \"services\"",
        ),
        (
            "[http]\nheader_timout = \"1s\"",
            "2:1: http.header_timout: unknown key, the nearest known one is \"header_timeout\"",
        ),
        (
            "[services.\"a.b\"]\nretry.atempts = 3",
            "2:7: services.\"a.b\".retry.atempts: unknown key, the nearest known one is \"attempts\"",
        ),
        (
            "[services.a]\ninstances = [{ address = \"a:1\", wieght = 1 }]",
            "2:33: services.a.instances[0].wieght: unknown key, the nearest known one is \"weight\"",
        ),
        (
            "[[routes]]\nstatus = 404\nhost = [\"a\"]",
            "3:1: routes[0].host: unknown key, the nearest known one is \"hosts\"",
        ),
    ] {
        assert_eq!(mistakes(text), [expected], "{text}");
    }
}

#[test]
fn wrong_values_say_what_to_write() {
    for (header, line, expected) in [
        (
            "[http]",
            "listen = \"a\"",
            "http.listen: expected an array, found a string",
        ),
        (
            "[http]",
            "listen = []",
            "http.listen: needs at least one address",
        ),
        (
            "[http]",
            "listen = [\":80\"]",
            "http.listen[0]: \":80\" names no address: write \"0.0.0.0:80\" for all",
        ),
        (
            "[http]",
            "listen = [\"a:80\"]",
            "http.listen[0]: \"a:80\" is not an IP address with a port, as in \"127.0.0.1:8080\"",
        ),
        (
            "[http]",
            "listen = [\"[::]:1\", \"[::]:1\"]",
            "http.listen[1]: [::]:1 is listed twice",
        ),
        (
            "[http]",
            "workers = 0",
            "http.workers: 0 is out of range, 1 to 1024",
        ),
        (
            "[http]",
            "workers = -1",
            "http.workers: -1 is out of range, 1 to 1024",
        ),
        (
            "[http]",
            "workers = 1.5",
            "http.workers: expected a whole number, found a fraction",
        ),
        (
            "[http]",
            "headers_max = 99999999999999999999",
            "http.headers_max: 99999999999999999999 is out of range, 1 to 1000",
        ),
        (
            "[http]",
            "header_timeout = \"0s\"",
            "http.header_timeout: must be more than zero",
        ),
        (
            "[http]",
            "header_timeout = \"\"",
            "http.header_timeout: \"\" is not a duration; write a duration such as \"250ms\", \"10s\", \"5m\" or \"1h\"",
        ),
        (
            "[http]",
            "header_timeout = \"10 parsecs\"",
            "http.header_timeout: \"parsecs\" is not a unit of time; write a duration such as \"250ms\", \"10s\", \"5m\" or \"1h\"",
        ),
        (
            "[http]",
            "header_timeout = \"9000h\"",
            "http.header_timeout: \"9000h\" is longer than a year",
        ),
        (
            "[http]",
            "header_timeout = \"99999999999999999h\"",
            "http.header_timeout: \"99999999999999999h\" is longer than a year",
        ),
        (
            "[http]",
            "header_bytes_max = \"1B\"",
            "http.header_bytes_max: is out of range, 1KiB to 1MiB",
        ),
        (
            "[http]",
            "body_bytes_max = \"1MB\"",
            "http.body_bytes_max: \"MB\" is not a unit of size; write a size such as \"512B\", \"64KiB\", \"1MiB\" or \"2GiB\"",
        ),
        (
            "[http]",
            "body_bytes_max = \"none\"",
            "http.body_bytes_max: \"none\" is not a size; write a size such as \"512B\", \"64KiB\", \"1MiB\" or \"2GiB\"",
        ),
        (
            "[http]",
            "body_bytes_max = \"99999999999GiB\"",
            "http.body_bytes_max: \"99999999999GiB\" is too large",
        ),
        (
            "[http]",
            "trusted_proxies = [\"10.0.0.0/40\"]",
            "http.trusted_proxies[0]: \"10.0.0.0/40\" is not a network, as in \"10.0.0.0/8\"",
        ),
        (
            "[http]",
            "access_log = \"\"",
            "http.access_log: must be \"off\", \"stdout\" or a file",
        ),
        (
            "[admin]",
            "listen = \"0.0.0.0:9901\"",
            "admin.listen: 0.0.0.0:9901 can be reached from other machines: set \"token_file\" as well, or listen on 127.0.0.1",
        ),
        (
            "[admin]",
            "listen = \"127.0.0.1:8080\"",
            "admin.listen: 127.0.0.1:8080 is taken by http.listen",
        ),
        (
            "[registry]",
            "mode = \"embeded\"",
            "registry.mode: \"embeded\" is not one of \"embedded\", \"external\", \"none\", the nearest is \"embedded\"",
        ),
        (
            "[registry]",
            "hosts = \"zk1:2181\"",
            "registry.hosts: \"zk1:2181\" is not an IP address with a port, as in \"127.0.0.1:8080\"",
        ),
        (
            "[registry]",
            "tls_ca = \"ca.pem\"",
            "registry.tls_ca: only an ensemble is reached over TLS: set registry.mode = \"external\", or leave this out",
        ),
        (
            "[registry]\nmode = \"external\"",
            "tls_server_name = \"zk\"",
            "registry.tls_server_name: needs \"tls_ca\" as well: the authorities that servers are trusted by",
        ),
        (
            "[registry]\nmode = \"external\"\ntls_ca = \"ca.pem\"",
            "tls_cert = \"cert.pem\"",
            "registry.tls_cert: needs \"tls_key\" as well",
        ),
        (
            "[registry]\nmode = \"external\"\ntls_ca = \"ca.pem\"",
            "tls_key = \"key.pem\"",
            "registry.tls_key: needs \"tls_cert\" as well",
        ),
        (
            "[registry]\nmode = \"external\"\ntls_ca = \"ca.pem\"",
            "tls_server_name = \"a b\"",
            "registry.tls_server_name: \"a b\" is neither a host name nor an IP address",
        ),
        (
            "[registry]\nmode = \"none\"",
            "auth_file = \"auth\"",
            "registry.auth_file: needs a registry, and registry.mode is \"none\"",
        ),
        (
            "[registry]\nmode = \"external\"",
            "hosts = \"zk1,zk2\"",
            "registry.hosts: \"zk1\" has no port; write host:port, as in \"10.0.0.3:8080\" or \"[::1]:8080\" (several are separated by commas: \"zk1:2181,zk2:2181/chroot\")",
        ),
        (
            "[registry]",
            "data_dir = \"\"",
            "registry.data_dir: must not be empty",
        ),
        (
            "[discovery]",
            "root = \"services\"",
            "discovery.root: \"services\" is not a znode path: it starts with \"/\"",
        ),
        (
            "[discovery]",
            "root = \"/a//b\"",
            "discovery.root: \"/a//b\" is not a znode path, as in \"/services/orders\"",
        ),
        (
            "[discovery]",
            "layout = \"curators\"",
            "discovery.layout: \"curators\" is not one of \"auto\", \"address\", \"curator\", \"spring\", \"dubbo2\", \"dubbo3\", \"serverset\", \"nerve\", \"kitex\", \"kratos\", \"shenyu\", \"list\", the nearest is \"curator\"",
        ),
        (
            "[discovery]",
            "auto_routes = \"yes\"",
            "discovery.auto_routes: expected true or false, found a string",
        ),
        (
            "[services]",
            "a = 1",
            "services.a: expected a table, found a whole number",
        ),
        (
            "[services]",
            "\"a/b\" = {}",
            "services.\"a/b\": a service name is made of letters, digits, \".\", \"_\", \"-\" and \":\", for it is a part of paths",
        ),
        (
            "[services.a]",
            "balance = \"least-requests\"",
            "services.a.balance: \"least-requests\" is not one of \"random\", \"round-robin\", \"weighted-round-robin\", \"least-request\", \"peak-ewma\", \"consistent-hash\", \"maglev\", the nearest is \"least-request\"",
        ),
        (
            "[services.a]",
            "hash_on = \"url\"",
            "services.a.hash_on: \"url\" is not one of \"path\", \"uri\", \"client-ip\", \"header:NAME\", \"cookie:NAME\", \"query:NAME\", the nearest is \"uri\"",
        ),
        (
            "[services.a]",
            "hash_on = \"cookie\"",
            "services.a.hash_on: needs a name, as in \"cookie:NAME\"",
        ),
        (
            "[services.a]",
            "hash_on = \"header:a b\"",
            "services.a.hash_on: \"a b\" is not a header name",
        ),
        (
            "[services.a]",
            "default_weight = 0",
            "services.a.default_weight: a default weight of 0 would take every instance out",
        ),
        (
            "[services.a]",
            "default_weight = 65536",
            "services.a.default_weight: 65536 is out of range, 0 to 65535",
        ),
        (
            "[services.a]",
            "weights = { \"b:1\" = -1 }",
            "services.a.weights.\"b:1\": -1 is out of range, 0 to 65535",
        ),
        (
            "[services.a]",
            "upstream_path = \"base\"",
            "services.a.upstream_path: the target does not start with \"/\"",
        ),
        (
            "[services.a]",
            "upstream_path = \"/a/../b\"",
            "services.a.upstream_path: a path has no dot segments",
        ),
        (
            "[services.a]",
            "upstream_path = \"/a?b\"",
            "services.a.upstream_path: a path has no query",
        ),
        (
            "[services.a]",
            "upstream_path = \"/a b\"",
            "services.a.upstream_path: a space or control byte in the target",
        ),
        (
            "[services.a.health_check]",
            "type = \"htp\"",
            "services.a.health_check.type: \"htp\" is not one of \"tcp\", \"http\", \"none\", the nearest is \"http\"",
        ),
        (
            "[services.a.health_check]",
            "expect = \"2xx\"",
            "services.a.health_check.expect: \"2xx\" is not a status, 100 to 599, as in \"200-399\"",
        ),
        (
            "[services.a.health_check]",
            "expect = \"399-200\"",
            "services.a.health_check.expect: \"399-200\" is backwards",
        ),
        (
            "[services.a.health_check]",
            "expect = \"200-600\"",
            "services.a.health_check.expect: \"600\" is not a status, 100 to 599, as in \"200-399\"",
        ),
        (
            "[services.a.health_check]",
            "path = \"healthz\"",
            "services.a.health_check.path: the target does not start with \"/\"",
        ),
        (
            "[services.a.outlier]",
            "ejected_percent_max = 101",
            "services.a.outlier.ejected_percent_max: 101 is out of range, 0 to 100",
        ),
        (
            "[services.a.retry]",
            "attempts = 0",
            "services.a.retry.attempts: 0 is out of range, 1 to 20",
        ),
        (
            "[services.a]",
            "instances = {}",
            "services.a.instances: expected an array, found a table",
        ),
        (
            "[services.a]",
            "instances = [\"a:1\"]",
            "services.a.instances[0]: expected a table, found a string",
        ),
        (
            "[services.a]",
            "instances = [{}]",
            "services.a.instances[0]: an instance needs an \"address\"",
        ),
        (
            "[services.a]",
            "instances = [{ address = \"a\" }]",
            "services.a.instances[0].address: \"a\" has no port; write host:port, as in \"10.0.0.3:8080\" or \"[::1]:8080\"",
        ),
        (
            "[services.a]",
            "instances = [{ address = \"a:0\" }]",
            "services.a.instances[0].address: \"0\" is not a port, 1 to 65535",
        ),
        (
            "[services.a]",
            "instances = [{ address = \"::1:80\" }]",
            "services.a.instances[0].address: \"::1:80\" needs brackets around its IPv6 address; write host:port, as in \"10.0.0.3:8080\" or \"[::1]:8080\"",
        ),
        (
            "[services.a]",
            "instances = [{ address = \"http://a:80\" }]",
            "services.a.instances[0].address: \"http://a:80\" needs brackets around its IPv6 address; write host:port, as in \"10.0.0.3:8080\" or \"[::1]:8080\"",
        ),
        (
            "[services.a]",
            "instances = [{ address = \"a:1\" }, { address = \"A:1\" }]",
            "services.a.instances[1].address: a:1 is already listed in line 2",
        ),
        (
            "[services.a]\ninstances = [{ address = \"a:1\" }]",
            "weights = { \"a:2\" = 1 }",
            "services.a.weights.\"a:2\": no instance with this address is listed, the nearest is \"a:1\"",
        ),
        (
            "[registry]\nmode = \"none\"",
            "[services.a]",
            "services.a: has no \"instances\", and with registry.mode = \"none\" they cannot be found elsewhere",
        ),
    ] {
        let found = mistake_under(header, line);
        assert_eq!(found.len(), 1, "{header} {line}: {found:?}");
        let message = found[0].splitn(3, ':').nth(2).unwrap().trim_start();
        assert_eq!(message, expected, "{header} {line}");
    }
}

#[test]
fn wrong_routes_say_what_to_write() {
    for (lines, expected) in [
        (
            "service = \"o/ders\"",
            "routes[0].service: a service name is made of letters, digits, \".\", \"_\", \"-\" and \":\", for it is a part of paths",
        ),
        (
            "path = \"/a\"",
            "routes[0]: a route needs a \"service\", a \"status\" or a \"redirect\"",
        ),
        (
            "service = \"orders\"\nstatus = 403",
            "routes[0].status: this route has a \"service\" already: it either forwards or answers",
        ),
        (
            "service = \"orders\"\nredirect = \"/a\"",
            "routes[0].redirect: this route has a \"service\" already: it either forwards or answers",
        ),
        (
            "redirect = \"/a\"",
            "routes[0]: a redirect needs a \"status\": 301, 302, 303, 307 or 308",
        ),
        (
            "redirect = \"/a\"\nstatus = 200",
            "routes[0].status: 200 does not redirect: use 301, 302, 303, 307 or 308",
        ),
        (
            "redirect = \"/a b\"\nstatus = 308",
            "routes[0].redirect: a URL has no spaces, control characters or letters beyond ASCII: percent-encode them",
        ),
        (
            "redirect = \"a.b\"\nstatus = 308",
            "routes[0].redirect: \"a.b\" starts neither with \"https://\" or \"http://\" nor with \"/\"",
        ),
        (
            "status = 302",
            "routes[0].status: 302 needs a \"redirect\" to go to",
        ),
        (
            "status = 100",
            "routes[0].status: 100 is out of range, 200 to 599",
        ),
        (
            "status = 403\nstrip_prefix = true\npath = \"/a\"",
            "routes[0].strip_prefix: only requests that go to a \"service\" have a prefix to strip",
        ),
        (
            "service = \"orders\"\nstrip_prefix = true\npath_regex = \"^/a\"",
            "routes[0].strip_prefix: a regex has no prefix to strip: use \"path\"",
        ),
        (
            "status = 403\npath = \"/a\"\npath_exact = \"/b\"",
            "routes[0].path_exact: there is \"path\" already, and a route has one of them",
        ),
        (
            "status = 403\npath = \"a\"",
            "routes[0].path: \"a\" does not start with \"/\"",
        ),
        (
            "status = 403\npath = \"/a?b\"",
            "routes[0].path: routes look at the path alone, without query and fragment",
        ),
        (
            "status = 403\npath = \"/a/..\"",
            "routes[0].path: a path has no dot segments",
        ),
        (
            "status = 403\npath = \"/a%zz\"",
            "routes[0].path: broken percent-encoding in the path",
        ),
        (
            "status = 403\npath = \"/%ff\"",
            "routes[0].path: the path is not UTF-8",
        ),
        (
            "status = 403\npath_regex = \"^/a(b\"",
            "routes[0].path_regex: is not a regex: unclosed group",
        ),
        (
            "status = 403\nmethods = [\"get\"]",
            "routes[0].methods[0]: methods are compared with their case: write \"GET\"",
        ),
        (
            "status = 403\nmethods = [\"G T\"]",
            "routes[0].methods[0]: \"G T\" is not a method",
        ),
        (
            "status = 403\nhosts = [\"*\"]",
            "routes[0].hosts[0]: for any host leave \"hosts\" out",
        ),
        (
            "status = 403\nhosts = [\"a.b:80\"]",
            "routes[0].hosts[0]: hosts are compared without their port: write \"a.b\"",
        ),
        (
            "status = 403\nhosts = [\"a.*.b\"]",
            "routes[0].hosts[0]: \"a.*.b\" has a star that is not a first label of its own, as in \"*.example.com\"",
        ),
        (
            "status = 403\nhosts = [\"::1\"]",
            "routes[0].hosts[0]: an IPv6 address needs brackets: \"[::1]\"",
        ),
        (
            "status = 403\nhosts = [\"a..b\"]",
            "routes[0].hosts[0]: \"a..b\" is not a host name",
        ),
        (
            "status = 403\nheaders = { \"a b\" = \"1\" }",
            "routes[0].headers.\"a b\": \"a b\" is not a header name",
        ),
        (
            "status = 403\nheaders = { a = \" 1\" }",
            "routes[0].headers.a: never matches: requests are compared without spaces around the value",
        ),
        (
            "status = 403\nheaders = { a = \"1\\n\" }",
            "routes[0].headers.a: a header value has no control characters",
        ),
        (
            "status = 403\nheaders = { a = \"1\", A = \"2\" }",
            "routes[0].headers.A: is there already, in another case",
        ),
        (
            "status = 403\n[[routes]]\nstatus = 404",
            "routes[1]: the route in line 3 has the same path, methods and headers",
        ),
        (
            "status = 403\npath = \"/a\"\nhosts = [\"x\", \"y\"]\n[[routes]]\nstatus = 404\npath = \"/a/\"\nhosts = [\"Y\"]",
            "routes[1]: the route in line 3 has the same path, methods and headers for y",
        ),
    ] {
        let found = mistakes(&format!(
            "[services.orders]\n[services.users]\n[[routes]]\n{lines}"
        ));
        assert_eq!(found.len(), 1, "{lines}: {found:?}");
        let message = found[0].splitn(3, ':').nth(2).unwrap().trim_start();
        assert_eq!(message, expected, "{lines}");
    }
    let nowhere = |services: &str| {
        mistakes(&format!(
            "registry.mode = \"none\"\n[[routes]]\nservice = \"oders\"\n{services}"
        ))
    };
    assert_eq!(
        nowhere(""),
        ["3:11: routes[0].service: there is no service \"oders\": add [services.oders]"]
    );
    assert_eq!(
        nowhere("[services]\norders.instances = []"),
        ["3:11: routes[0].service: there is no service \"oders\", the nearest is \"orders\""]
    );
}

#[test]
fn a_route_may_lead_to_a_service_that_is_found_in_the_registry() {
    let text = "[services.orders]\n[[routes]]\nservice = \"orders\"\npath = \"/o\"\n[[routes]]\nservice = \"oders\"\n";
    let config = parse(text).unwrap();
    assert_eq!(config.routed_only(), BTreeSet::from(["oders"]));
    assert!(!config.services.contains_key("oders"));
    let meant = "a route leads to \"oders\", which is not in [services]: it has to register below /services, is \"orders\" meant?";
    assert_eq!(config.notes(), [meant]);
    let overlaid = extend(&config, "[[routes]]\npath = \"/u\"\nservice = \"users\"").unwrap();
    assert_eq!(overlaid.routed_only(), BTreeSet::from(["oders", "users"]));
    assert!(!overlaid.notes()[1].contains("meant"), "{overlaid:?}");
    let base = parse("registry.mode = \"none\"").unwrap();
    let errors = extend(&base, "[[routes]]\nservice = \"users\"").unwrap_err();
    assert_eq!(errors[0].key_path, "routes[0].service");
}

#[test]
fn routes_that_differ_in_anything_are_no_duplicates() {
    let text = r#"
        [[routes]]
        status = 403
        [[routes]]
        status = 403
        hosts = ["a"]
        [[routes]]
        status = 403
        methods = ["GET"]
        [[routes]]
        status = 403
        headers = { a = "1" }
        [[routes]]
        status = 403
        headers = { a = "2" }
        [[routes]]
        status = 403
        path_exact = "/"
    "#;
    assert_eq!(parse(text).unwrap().routes.len(), 6);
}

#[test]
fn all_mistakes_at_once_in_the_order_of_the_text() {
    let text = "[[routes]]\nservice = \"o ders\"\n[services.orders]\nbalance = \"rr\"\n[http]\n# ä\n\"wörkers\" = 1\nidle_timeout = 5\n";
    let errors = parse(text).unwrap_err();
    let places: Vec<_> = errors
        .iter()
        .map(|error| (error.line, error.column, error.key_path.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            (2, 11, "routes[0].service"),
            (4, 11, "services.orders.balance"),
            (7, 1, "http.\"wörkers\""),
            (8, 16, "http.idle_timeout"),
        ]
    );
}

#[test]
fn columns_count_characters() {
    assert_eq!(
        mistakes("http = { access_log = \"ä\", idle_timeout = 1 }"),
        ["1:43: http.idle_timeout: 1 has no unit: write \"1s\" for seconds (units: ms, s, m, h)"]
    );
}

#[test]
fn syntax_errors_do_not_hide_each_other_or_the_rest() {
    for (text, expected) in [
        (
            "[http]\nlisten = [\"127.0.0.1:8080\"\nworkers = 2\nheader_timeout = 10s\nidle_timeout = \"75s\nheaders_max = 0\n",
            vec![
                "2:1: http.listen: the array or table that begins here is not closed",
                "4:18: http.header_timeout: this value needs quotes",
                "5:20: http.idle_timeout: the quotes are not closed",
                "6:15: http.headers_max: 0 is out of range, 1 to 1000",
            ],
        ),
        (
            "[http]\nworkers = two\nheader_timeout =\nidle_timeout \"75s\"\nbody_bytes_max = 5KiB\n",
            vec![
                "2:11: http.workers: this value needs quotes",
                "3:17: http.header_timeout: the value is missing",
                "4:14: http.idle_timeout: this line is not TOML: key with no value, expected `=`",
                "5:18: http.body_bytes_max: this value needs quotes",
            ],
        ),
        (
            "[services.orders\nbalance = \"rr\"\n[[routes]]\nservice = orders\n[[routes]]\nservice = \"orders\"\npath = \"/a\"\npath = \"/b\"\n",
            vec![
                "1:17: services.orders: the brackets of the header are not closed",
                "4:11: routes[0].service: this value needs quotes",
                "8:1: routes[1].path: is there already",
            ],
        ),
        (
            "[http]\nworkers = 1\n[http]\nworkers = 2\n",
            vec!["3:2: http: is there already"],
        ),
        (
            "[services.a]\nweights = { \"a:1\" = 1\nbalance = \"rr\"\n",
            vec![
                "2:1: services.a.weights: the array or table that begins here is not closed",
                "3:11: services.a.balance: \"rr\" is not one of \"random\", \"round-robin\", \"weighted-round-robin\", \"least-request\", \"peak-ewma\", \"consistent-hash\", \"maglev\", the nearest is \"random\"",
            ],
        ),
    ] {
        assert_eq!(mistakes(text), expected, "{text}");
    }
}

#[test]
fn a_flood_of_syntax_errors_ends() {
    let text = "a = b\n".repeat(1000);
    let errors = parse(&text).unwrap_err();
    assert!((1..=20).contains(&errors.len()), "{}", errors.len());
}

#[test]
fn durations_and_sizes_are_shown_as_they_are_written() {
    for text in ["0s", "1ms", "1500ms", "90s", "10s", "5m", "1h"] {
        let config = parse(&format!("[http]\nshutdown_timeout = \"{text}\"")).unwrap();
        assert_eq!(config.to_json()["http"]["shutdown_timeout"], text);
    }
    for text in ["0B", "1B", "1023B", "1KiB", "1536KiB", "2GiB", "unlimited"] {
        let config = parse(&format!("[http]\nbody_bytes_max = \"{text}\"")).unwrap();
        assert_eq!(config.to_json()["http"]["body_bytes_max"], text);
    }
}

#[test]
fn secrets_are_masked() {
    let text = r#"
        [admin]
        token_file = "/etc/token"
        [registry]
        mode = "external"
        auth_file = "/etc/login"
        tls_ca = "/etc/ca.pem"
        tls_cert = "/etc/cert.pem"
        tls_key = "/etc/key.pem"
        [[routes]]
        redirect = "https://user:password@example.com/a@b"
        status = 308
        headers = { x-api-key = "12345", x-canary = "1" }
    "#;
    let json = parse(text).unwrap().to_json();
    assert_eq!(json["admin"]["token_file"], "***");
    assert_eq!(json["registry"]["auth_file"], "***");
    assert_eq!(json["registry"]["tls_ca"], "/etc/ca.pem");
    assert_eq!(json["registry"]["tls_key"], "***");
    assert_eq!(json["routes"][0]["redirect"], "https://***@example.com/a@b");
    assert_eq!(json["routes"][0]["headers"]["x-api-key"], "***");
    assert_eq!(json["routes"][0]["headers"]["x-canary"], "1");
}

/// What is shown has the keys of the documented file, so that it can be compared with it.
#[test]
fn what_is_shown_is_shaped_like_the_file() {
    let json = parse(COMPLETE).unwrap().to_json();
    let table = DeTable::parse(COMPLETE).unwrap();
    for (section, values) in table.get_ref() {
        if section.get_ref() == "routes" {
            continue;
        }
        for (key, value) in values.get_ref().as_table().unwrap() {
            let shown = &json[section.get_ref().as_ref()][key.get_ref().as_ref()];
            assert!(!shown.is_null(), "{section:?} {key:?} {value:?}");
        }
    }
    assert_eq!(
        json["services"]["orders"]["health_check"]["expect"],
        "200-399"
    );
    assert_eq!(
        json["routes"][1],
        serde_json::json!({ "path": "/internal", "status": 403 })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever becomes of a file, reading it ends, and every mistake has a place in it.
    #[test]
    fn mutated_files_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..20, "[\\[\\]{}=\"',.#\\\\a-c0-9 \nä]{0,4}"), 1..6)
    ) {
        let mut text: Vec<char> = COMPLETE.chars().collect();
        for (at, removed, inserted) in edits {
            let at = at.index(text.len());
            let end = (at + removed).min(text.len());
            text.splice(at..end, inserted.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = parse(&text) {
            prop_assert!(!errors.is_empty());
            let lines: Vec<&str> = text.split('\n').collect();
            for error in errors {
                prop_assert!(error.line <= lines.len());
                prop_assert!(error.column <= lines[error.line - 1].chars().count() + 1);
            }
        }
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,200}") {
        drop(parse(&text));
    }
}
