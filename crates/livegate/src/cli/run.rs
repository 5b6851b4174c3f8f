//! `livegate run`: the order in which a gateway starts and stops.

use std::net::TcpListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use livegate_registry::Server;
use livegate_zk::client::ConnectOptions;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::{self, Login};
use crate::access_log::{AccessLogHandle, AccessLogWriter};
use crate::admin::{self, Admin, Token};
use crate::cli::logging::start_logging;
use crate::cli::signals::Ends;
use crate::cli::{read_config, several};
use crate::config::{Config, RegistryMode};
use crate::control::Control;
use crate::control::file::Watched;
use crate::control::registry::Registry;
use crate::control::resolve::ResolveError;
use crate::events::Events;
use crate::worker::{Listeners, Shared, Workers};

/// Events that the flight recorder holds: some hours of a busy fleet, about 2 MiB.
const EVENTS_MAX: usize = 10_000;

/// How long saying goodbye to the registry may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Connections that one address may have to the embedded registry.
const EMBEDDED_CONNECTIONS_MAX: usize = 4096;

/// Runs until a signal ends it.
pub(super) fn run(file: Option<&Path>) -> anyhow::Result<()> {
    start_logging("info")?;
    // A change of the file from here on is noticed.
    let watched = file.map(|file| Watched::new(file.to_owned()));
    let config = file.map(read_config).transpose();
    let config = config
        .map_err(|errors| several(&errors))?
        .unwrap_or_default();
    let files_max = raise_open_files_limit();
    let token = config
        .admin
        .token_file
        .as_deref()
        .map(Token::read)
        .transpose()?;
    let admin_listener = StdListener::bind(config.admin.listen).with_context(|| {
        format!(
            "cannot listen on {}, choose another address in admin.listen",
            config.admin.listen
        )
    })?;
    admin_listener.set_nonblocking(true)?;
    let listeners = Listeners::bind(&config.http.listen, config.http.workers)?;
    let access_log = AccessLogWriter::open(&config.http.access_log)
        .context("cannot open the file of http.access_log")?;
    tracing::debug!("at most {files_max} open files");

    let workers = config.http.workers;
    let events = Events::new(EVENTS_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Stopped last: sessions of other processes live in it.
    let embedded = start_embedded_registry(&config)?;
    let registry = registry_options(&config, embedded.as_ref())?;
    let control = runtime.block_on(async {
        let registry = match registry {
            Some(options) => Some(Registry::start(options, &config, &events).await),
            None => None,
        };
        let control = Control::start(config, workers, events.clone(), registry).await;
        control.map_err(|errors| several(&lines(&errors)))
    })?;
    let gateway = Arc::clone(&control.published().gateway);
    let log = access_log.as_ref().map(AccessLogWriter::handle);
    let shared = Arc::new(Shared::new(gateway, workers, log));
    for address in listeners.addresses() {
        tracing::info!("listening on http://{address}, {workers} workers");
    }
    let running = Running {
        workers: Workers::start(listeners, &shared).context("cannot start the workers")?,
        control,
        watched,
        stopping: CancellationToken::new(),
    };
    let published = running.control.published().clone();
    let admin = Admin::new(published, shared, events, token, running.stopping.clone());
    let admin = match running.control.registry() {
        Some(registry) => admin.with_registry(registry.facts()),
        None => admin,
    };
    let result = runtime.block_on(run_until_ended(running, admin, admin_listener));
    // Tasks hold handles of the access log, whose last lines are written when all are gone.
    drop(runtime);
    drop(embedded);
    drop(access_log);
    result
}

/// The registry inside this process, if that is what the configuration asks for.
fn start_embedded_registry(config: &Config) -> anyhow::Result<Option<Server>> {
    if config.registry.mode != RegistryMode::Embedded {
        return Ok(None);
    }
    let listen = config.registry.hosts.parse();
    let listen = listen.expect("an address was checked for when the file was read");
    let mut options = livegate_registry::Options::new(listen, &config.registry.data_dir);
    // On one machine all instances come from one address.
    options.connections_per_address_max = EMBEDDED_CONNECTIONS_MAX;
    // It names its cause.
    let server = Server::start(options).map_err(|error| {
        anyhow!(
            "cannot start the embedded registry ({error}): choose another address in registry.hosts or \
             directory in registry.data_dir, or use registry.mode = \"external\" or \"none\""
        )
    })?;
    tracing::info!("registry on {}", server.address());
    Ok(Some(server))
}

/// Where the registry is, and as whom to come.
fn registry_options(
    config: &Config,
    embedded: Option<&Server>,
) -> anyhow::Result<Option<ConnectOptions>> {
    let registry = &config.registry;
    let hosts = match (registry.mode, embedded) {
        (RegistryMode::External, _) => registry.hosts.clone(),
        (RegistryMode::Embedded, Some(server)) => server.address().to_string(),
        (RegistryMode::Embedded, None) | (RegistryMode::None, _) => return Ok(None),
    };
    let mut options = ConnectOptions::new(&hosts).context("registry.hosts")?;
    options.session_timeout = registry.session_timeout;
    let mut logins = Vec::new();
    if let Some(file) = &registry.auth_file {
        logins = access::read_logins(file).context("registry.auth_file")?;
    }
    let variable = std::env::var(access::AUTH_VARIABLE);
    if let Some(text) = variable.ok().filter(|text| !text.is_empty()) {
        let login = Login::parse(&text).map_err(anyhow::Error::msg);
        logins.push(login.context(access::AUTH_VARIABLE)?);
    }
    options.credentials = logins.iter().map(Login::credential).collect();
    let tls = registry.tls_files().map(|files| files.load()).transpose();
    options.tls = tls.context("registry.tls_ca, tls_cert, tls_key")?;
    Ok(Some(options))
}

/// A gateway that serves.
struct Running {
    workers: Workers,
    control: Control,
    watched: Option<Watched>,
    /// Cancelled when the end has begun.
    stopping: CancellationToken,
}

async fn run_until_ended(
    mut running: Running,
    admin: Admin,
    admin_listener: StdListener,
) -> anyhow::Result<()> {
    let mut ends = Ends::new()?;
    let admin_listener = TcpListener::from_std(admin_listener)?;
    tracing::info!("admin on http://{}", admin_listener.local_addr()?);
    let log = admin.shared.access_log.clone();
    let stopped = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(admin::serve(
        admin_listener,
        Arc::new(admin),
        stopped.clone(),
    ));

    reload_until_ended(&mut running, log.as_ref(), &mut ends).await?;
    running.stopping.cancel();
    let patience = running
        .control
        .published()
        .config
        .load()
        .http
        .shutdown_timeout;
    let workers = running.workers;
    let shut_down = move || workers.shut_down(Instant::now() + patience);
    let cut = tokio::select! {
        cut = tokio::task::spawn_blocking(shut_down) => cut?,
        name = ends.next() => {
            tracing::warn!("{name} again: ending at once");
            std::process::exit(0);
        }
    };
    if cut > 0 {
        tracing::warn!("{cut} connections were cut after http.shutdown_timeout");
    }
    if let Some(registry) = running.control.registry() {
        // Without it instances that drain would wait for this gateway until its session times out.
        let client = registry.client().with_operation_timeout(GOODBYE);
        client.close().await;
    }
    stopped.cancel();
    tracing::info!("stopped");
    Ok(())
}

/// Applies the file whenever it has changed or SIGHUP asks for it, until a signal ends it all.
async fn reload_until_ended(
    running: &mut Running,
    log: Option<&AccessLogHandle>,
    ends: &mut Ends,
) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        let cause = tokio::select! {
            name = ends.next() => {
                tracing::info!("{name}: finishing running requests");
                return Ok(());
            }
            _ = hangup.recv() => {
                if let Some(log) = log {
                    log.reopen();
                }
                "SIGHUP"
            }
            () = changed(running.watched.as_mut()) => "the file has changed",
            found = running.control.found() => {
                running.control.take_in(found).await;
                continue;
            }
        };
        let Some(file) = running.watched.as_mut().map(Watched::see) else {
            tracing::info!("{cause}: there is no configuration file to read");
            continue;
        };
        tokio::select! {
            () = reload(&mut running.control, file, cause) => {}
            name = ends.next() => {
                tracing::info!("{name}: finishing running requests");
                return Ok(());
            }
        }
    }
}

async fn reload(control: &mut Control, file: &Path, cause: &str) {
    let applied = match read_config(file) {
        Ok(config) => control.apply(config, cause).await,
        Err(errors) => Err(errors),
    };
    if let Err(errors) = applied {
        control.refuse(cause, &errors);
    }
}

fn lines(errors: &[ResolveError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// Never, when there is no file.
async fn changed(watched: Option<&mut Watched>) {
    match watched {
        Some(watched) => watched.changed().await,
        None => std::future::pending().await,
    }
}

/// A gateway needs two descriptors for each request. The soft limit is for programs that use
/// select(2); the hard one is what the administrator allows.
pub(super) fn raise_open_files_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
    let in_effect = if raised.is_ok() { maximum } else { current };
    in_effect.unwrap_or(u64::MAX)
}
