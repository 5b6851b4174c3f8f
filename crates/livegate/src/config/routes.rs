//! `[[routes]]`, and what the routes need of the services.

use std::collections::{BTreeMap, BTreeSet};

use regex::bytes::Regex;

use crate::config::section::{Section, Value, nearest};
use crate::config::service::{SERVICE_NAME, is_service_name};
use crate::config::values::{header_name, is_token, route_host, route_path};
use crate::config::{PathMatch, RegistryMode, RouteAction, RouteConfig, ServiceConfig};

/// A `Location` for statuses that have one (RFC 9110 section 15.4).
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// Reads all `[[routes]]`. Routes with an error are left out.
pub(super) fn routes(
    value: &Value<'_>,
    services: &BTreeMap<String, ServiceConfig>,
    mode: RegistryMode,
) -> Vec<RouteConfig> {
    let mut routes = Vec::new();
    let mut seen = Seen::default();
    for element in value.parse(Value::elements).unwrap_or_default() {
        let Some(section) = element.parse(Value::section) else {
            continue;
        };
        let Some(route) = route(section, services, mode) else {
            continue;
        };
        seen.check(&route, &element);
        routes.push(route);
    }
    routes
}

fn route(
    mut section: Section<'_>,
    services: &BTreeMap<String, ServiceConfig>,
    mode: RegistryMode,
) -> Option<RouteConfig> {
    let hosts = section
        .read("hosts", |value| value.list(route_host))
        .unwrap_or_default();
    let path = path_match(&mut section);
    let methods = section
        .read("methods", |value| value.list(method))
        .unwrap_or_default();
    let headers = section
        .get("headers")
        .map(|value| headers(&value))
        .unwrap_or_default();
    let strip_prefix = section.get("strip_prefix");
    let action = action(&mut section, services, mode);
    let strip = strip_prefix
        .as_ref()
        .and_then(|value| value.parse(Value::boolean));
    let strip = strip.unwrap_or(false);
    if strip && let Some(value) = &strip_prefix {
        if matches!(path, Some(PathMatch::Regex(_))) {
            value.error("a regex has no prefix to strip: use \"path\"");
        } else if matches!(
            action,
            Some(RouteAction::Status(_) | RouteAction::Redirect { .. })
        ) {
            value.error("only requests that go to a \"service\" have a prefix to strip");
        }
    }
    section.finish();
    Some(RouteConfig {
        hosts,
        path: path?,
        methods,
        headers,
        action: action?,
        strip_prefix: strip,
    })
}

/// `path`, `path_exact` or `path_regex`; none of them is any path.
fn path_match(section: &mut Section<'_>) -> Option<PathMatch> {
    let given = [
        ("path", section.get("path")),
        ("path_exact", section.get("path_exact")),
        ("path_regex", section.get("path_regex")),
    ];
    let mut given = given
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| (key, value)));
    let Some((first, value)) = given.next() else {
        return Some(PathMatch::Prefix("/".to_owned()));
    };
    for (_, other) in given {
        other.error(format!(
            "there is \"{first}\" already, and a route has one of them"
        ));
    }
    value.parse(|value| match first {
        "path" => {
            let path = route_path(value)?;
            let path = path.trim_end_matches('/');
            Ok(PathMatch::Prefix(
                if path.is_empty() { "/" } else { path }.to_owned(),
            ))
        }
        "path_exact" => route_path(value).map(PathMatch::Exact),
        _ => {
            let text = value.text()?;
            Regex::new(text).map_err(|error| explain_regex(&error))?;
            Ok(PathMatch::Regex(text.to_owned()))
        }
    })
}

/// The last line of the regex crate's picture is its sentence.
fn explain_regex(error: &regex::Error) -> String {
    let text = error.to_string();
    let sentence = text.lines().last().unwrap_or_default();
    let sentence = sentence.trim().trim_start_matches("error: ");
    format!("is not a regex: {sentence}")
}

fn method(value: &Value<'_>) -> Result<String, String> {
    let text = value.string()?;
    if !is_token(text) {
        return Err(format!("\"{text}\" is not a method"));
    }
    let upper = text.to_ascii_uppercase();
    if text != upper {
        return Err(format!(
            "methods are compared with their case: write \"{upper}\""
        ));
    }
    Ok(upper)
}

fn headers(value: &Value<'_>) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    for entry in value.parse(Value::entries).unwrap_or_default() {
        let name = header_name(entry.key).map_err(|message| entry.key_error(message));
        let text = entry.value.parse(header_value);
        if let (Ok(name), Some(text)) = (name, text)
            && headers.insert(name, text.to_owned()).is_some()
        {
            entry.key_error("is there already, in another case");
        }
    }
    headers
}

/// A value as the gateway sees it in a request: without whitespace around it.
fn header_value<'d>(value: &Value<'d>) -> Result<&'d str, String> {
    let text = value.string()?;
    if text.contains(|c: char| c.is_control() && c != '\t') {
        return Err("a header value has no control characters".to_owned());
    }
    if text.trim_matches([' ', '\t']) != text {
        return Err(
            "never matches: requests are compared without spaces around the value".to_owned(),
        );
    }
    Ok(text)
}

/// What the route does; exactly one of `service`, `status` and `redirect` (with `status`).
fn action(
    section: &mut Section<'_>,
    services: &BTreeMap<String, ServiceConfig>,
    mode: RegistryMode,
) -> Option<RouteAction> {
    let service = section.get("service");
    let redirect = section.get("redirect");
    let status = section.get("status");
    match (service, redirect, status) {
        (None, None, None) => {
            section.absent("a route needs a \"service\", a \"status\" or a \"redirect\"");
            None
        }
        (Some(service), None, None) => {
            let name = service.parse(Value::text)?;
            // Others are found in the registry, if there is one.
            if !services.contains_key(name) && !section.errors.partial() {
                if mode == RegistryMode::None {
                    service.error(unknown_service(name, services));
                } else if !is_service_name(name) {
                    service.error(SERVICE_NAME);
                }
            }
            Some(RouteAction::Service(name.to_owned()))
        }
        (Some(_), Some(other), _) | (Some(_), None, Some(other)) => {
            other.error("this route has a \"service\" already: it either forwards or answers");
            None
        }
        (None, Some(redirect), status) => {
            let location = redirect.parse(location);
            let Some(status) = status else {
                section.absent("a redirect needs a \"status\": 301, 302, 303, 307 or 308");
                return None;
            };
            let status = status.parse(|value| match value.number(200..=599)? {
                number if REDIRECTS.contains(&number) => Ok(number),
                number => Err(format!(
                    "{number} does not redirect: use 301, 302, 303, 307 or 308"
                )),
            });
            Some(RouteAction::Redirect {
                status: status?,
                location: location?.to_owned(),
            })
        }
        (None, None, Some(status)) => {
            let number = status.parse(|value| value.number(200..=599))?;
            if REDIRECTS.contains(&number) {
                status.error(format!("{number} needs a \"redirect\" to go to"));
            }
            Some(RouteAction::Status(number))
        }
    }
}

fn unknown_service(name: &str, services: &BTreeMap<String, ServiceConfig>) -> String {
    match nearest(name, services.keys().map(String::as_str)) {
        Some(known) => format!("there is no service \"{name}\", the nearest is \"{known}\""),
        None => format!("there is no service \"{name}\": add [services.{name}]"),
    }
}

/// An absolute URL or a path, ready to stand in a header.
fn location<'d>(value: &Value<'d>) -> Result<&'d str, String> {
    let text = value.text()?;
    if text.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return Err(
            "a URL has no spaces, control characters or letters beyond ASCII: percent-encode them"
                .to_owned(),
        );
    }
    let absolute = ["http://", "https://", "/"]
        .iter()
        .any(|start| text.starts_with(start));
    if !absolute {
        return Err(format!(
            "\"{text}\" starts neither with \"https://\" or \"http://\" nor with \"/\""
        ));
    }
    Ok(text)
}

/// What makes two routes the same.
type Identity = (
    PathMatch,
    Option<String>,
    BTreeSet<String>,
    BTreeMap<String, String>,
);

/// Finds routes that no request could ever reach, for another is the same.
#[derive(Default)]
struct Seen {
    lines: BTreeMap<Identity, usize>,
}

impl Seen {
    fn check(&mut self, route: &RouteConfig, element: &Value<'_>) {
        let line = element.errors.line(element.span.start);
        let hosts: BTreeSet<Option<String>> = if route.hosts.is_empty() {
            BTreeSet::from([None])
        } else {
            route.hosts.iter().cloned().map(Some).collect()
        };
        for host in hosts {
            let methods = route.methods.iter().cloned().collect();
            let identity = (
                route.path.clone(),
                host.clone(),
                methods,
                route.headers.clone(),
            );
            match self.lines.get(&identity) {
                Some(first) => {
                    let host = host.map(|host| format!(" for {host}")).unwrap_or_default();
                    element.error(format!(
                        "the route in line {first} has the same path, methods and headers{host}"
                    ));
                }
                None => {
                    self.lines.insert(identity, line);
                }
            }
        }
    }
}
