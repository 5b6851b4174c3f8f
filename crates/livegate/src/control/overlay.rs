//! The part of the configuration that is in the registry: `registry.config_path` names a node whose data
//! is services and routes, in the format of the file.
//!
//! What was applied last is kept on disk beside the instance lists, so that a gateway that starts without its
//! registry has its routes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use livegate_zk::client::{Client, Error};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::control::trouble;
use crate::events::Events;

/// The text of the node; `None` while there is no such node, or nothing in it.
pub(super) type Text = Option<Arc<str>>;

/// Watches the node. Dropping it ends the watch.
#[derive(Debug)]
pub(super) struct Overlay {
    texts: watch::Receiver<Text>,
    /// What is in effect, and to be on disk.
    applied: watch::Sender<Text>,
    _tasks: JoinSet<()>,
}

/// Between two attempts to read the node after an error that is not of the connection: it may be that the
/// gateway is not allowed to read it.
const RETRY: Duration = Duration::from_secs(2);

impl Overlay {
    /// Watches `node`. `directory` is where the last text that was applied is kept.
    pub(super) async fn start(
        client: Client,
        node: &str,
        directory: &Path,
        events: &Events,
    ) -> Self {
        let file = directory.join("config_path.toml");
        let from_disk = file.clone();
        let saved = tokio::task::spawn_blocking(move || std::fs::read_to_string(from_disk).ok());
        let saved = saved.await.ok().flatten().map(Arc::from);
        let (applied, to_keep) = watch::channel(Text::clone(&saved));
        let (sender, texts) = watch::channel(saved);
        let mut tasks = JoinSet::new();
        let events = events.clone();
        tasks.spawn(follow(client, node.to_owned(), sender, events));
        tasks.spawn(keep(file, to_keep));
        Self {
            texts,
            applied,
            _tasks: tasks,
        }
    }

    /// This text is in effect now.
    pub(super) fn applied(&self, text: &Text) {
        self.applied.send_if_modified(|applied| {
            let is_other = applied != text;
            applied.clone_from(text);
            is_other
        });
    }

    /// The text now.
    pub(super) fn text(&mut self) -> Text {
        self.texts.borrow_and_update().clone()
    }

    /// Resolves when there is another text. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if self.texts.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn follow(client: Client, node: String, sender: watch::Sender<Text>, events: Events) {
    let mut refusal = None;
    loop {
        let (text, mut watch) = match read(&client, &node).await {
            Ok(read) => read,
            Err(error) => {
                // That the registry is away is told of elsewhere.
                if matches!(error, Error::Server(_)) && refusal.as_ref() != Some(&error) {
                    let what = format!("cannot read {node} (registry.config_path)");
                    trouble::refused(&events, None, &what, &error.to_string());
                    refusal = Some(error);
                }
                sleep(RETRY).await;
                continue;
            }
        };
        refusal = None;
        sender.send_if_modified(|latest| {
            let is_news = *latest != text;
            *latest = text;
            is_news
        });
        // It fires when the node is created, set or deleted, also after the connection was lost meanwhile.
        if watch.fired().await.is_none() {
            return;
        }
    }
}

/// Keeps on disk what is applied.
async fn keep(file: PathBuf, mut applied: watch::Receiver<Text>) {
    while applied.changed().await.is_ok() {
        let (file, text) = (file.clone(), applied.borrow_and_update().clone());
        let saved = tokio::task::spawn_blocking(move || save(&file, text.as_deref()));
        if let Ok(Err(error)) = saved.await {
            tracing::warn!("cannot keep the text of registry.config_path on disk: {error}");
        }
    }
}

async fn read(client: &Client, node: &str) -> Result<(Text, livegate_zk::client::Watch), Error> {
    loop {
        match client.get_and_watch(node).await {
            Ok((data, _, watch)) => {
                let text = String::from_utf8_lossy(&data);
                let text = (!text.trim().is_empty()).then(|| Arc::from(text));
                return Ok((text, watch));
            }
            Err(error) if error.is_no_node() => {}
            Err(error) => return Err(error),
        }
        if let (None, watch) = client.exists_and_watch(node).await? {
            return Ok((None, watch));
        }
    }
}

/// Replaces the file whole.
fn save(file: &Path, text: Option<&str>) -> std::io::Result<()> {
    let Some(text) = text else {
        return match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    let directory = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let temporary = file.with_extension("toml.new");
    let mut output = std::fs::File::create(&temporary)?;
    output.write_all(text.as_bytes())?;
    output.sync_all()?;
    std::fs::rename(&temporary, file)?;
    std::fs::File::open(directory)?.sync_all()
}
