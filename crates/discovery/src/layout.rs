//! What registered nodes say: the layouts in which services are found in ZooKeeper.
//!
//! [`read`] turns the name and the data of one node into descriptions of instances. It is pure, takes
//! whatever bytes others wrote, and never panics. What it returns is bounded by the limits below; fields
//! that it does not know are ignored.

mod address;
mod curator;
mod dubbo;
mod host;
mod json;
mod kitex;
mod kratos;
mod list;
mod nerve;
mod server_set;
mod shen_yu;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;

use crate::snapshot::{InstanceId, InstanceState};
pub use address::{Address, AddressError};
pub use server_set::Vector;

/// The longest data of a node that describes one instance. The real ones have a few hundred bytes.
pub const DATA_BYTES_MAX: usize = 64 * 1024;

/// The longest data of a node that holds a list: what servers take unless configured.
pub const LIST_BYTES_MAX: usize = 1024 * 1024;

/// The most instances that one list may name.
pub const LIST_INSTANCES_MAX: usize = 10_000;

/// The most different host names that one list may name; addresses are not counted.
pub const LIST_NAMES_MAX: usize = 256;

/// The most metadata entries kept of one instance; the first ones in the order of their keys.
pub const METADATA_ENTRIES_MAX: usize = 64;

/// The longest key kept, in bytes; entries with longer ones are left out.
pub const METADATA_KEY_BYTES_MAX: usize = 256;

/// The longest value kept, in bytes; entries with longer ones are left out.
pub const METADATA_VALUE_BYTES_MAX: usize = 4096;

/// The highest weight, as in the configuration. Higher ones count as this one.
pub const WEIGHT_MAX: u32 = 65_535;

/// How the nodes of a service are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// Each node by what it looks like, so that several layouts can be mixed.
    #[default]
    Auto,
    /// The node's name is the address, `10.0.0.3:8080`.
    Address,
    /// Curator's service discovery: JSON with `address` and `port`.
    Curator,
    /// Spring Cloud ZooKeeper: Curator's JSON with a status in its payload.
    Spring,
    /// Dubbo 2: percent-encoded URLs as names, below `providers`.
    Dubbo2,
    /// Dubbo 3, by application: Curator's JSON.
    Dubbo3,
    /// Twitter's server sets (Finagle, Aurora): `member_0000000007`.
    ServerSet,
    /// nerve (SmartStack): JSON with `host` and `port`, also as base64 in the name.
    Nerve,
    /// Kitex and Hertz: the name is the address, the data is JSON with `Weight` and `Tags`.
    Kitex,
    /// Kratos: JSON with `endpoints`.
    Kratos,
    /// `ShenYu`: JSON with `host` and `port`.
    ShenYu,
    /// A JSON list of instances in the data of one node.
    List,
}

/// A name that is not one of a layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a layout; there are auto, address, curator, spring, dubbo2, dubbo3, serverset, nerve, kitex, kratos, shenyu and list"
)]
pub struct UnknownLayout(pub String);

impl Layout {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Auto,
        Self::Address,
        Self::Curator,
        Self::Spring,
        Self::Dubbo2,
        Self::Dubbo3,
        Self::ServerSet,
        Self::Nerve,
        Self::Kitex,
        Self::Kratos,
        Self::ShenYu,
        Self::List,
    ];

    /// Its name in configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Address => "address",
            Self::Curator => "curator",
            Self::Spring => "spring",
            Self::Dubbo2 => "dubbo2",
            Self::Dubbo3 => "dubbo3",
            Self::ServerSet => "serverset",
            Self::Nerve => "nerve",
            Self::Kitex => "kitex",
            Self::Kratos => "kratos",
            Self::ShenYu => "shenyu",
            Self::List => "list",
        }
    }

    /// Whether instances may be below a directory of this name instead of below the service itself.
    pub(crate) fn has_directory(self, name: &str) -> bool {
        matches!(self, Self::Auto | Self::Dubbo2) && name == dubbo::PROVIDERS
    }

    /// Whether a child of this name says nothing about instances.
    pub(crate) fn ignores(self, name: &str) -> bool {
        matches!(self, Self::Auto | Self::Dubbo2) && dubbo::OTHER_DIRECTORIES.contains(&name)
    }

    /// Whether the service's own node may hold a list of instances.
    pub(crate) const fn may_list_in_service_node(self) -> bool {
        matches!(self, Self::Auto | Self::List)
    }
}

impl FromStr for Layout {
    type Err = UnknownLayout;

    fn from_str(name: &str) -> Result<Self, UnknownLayout> {
        Self::ALL
            .into_iter()
            .find(|layout| layout.name() == name)
            .ok_or_else(|| UnknownLayout(name.to_owned()))
    }
}

/// What a node says about one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The node's name, or the address where the name says nothing else: in Dubbo 2, in lists, and
    /// where the name is an address with a sequence number.
    pub id: InstanceId,
    /// Where it listens.
    pub address: Address,
    /// Its share of the traffic, if it names one; at most [`WEIGHT_MAX`].
    pub weight: Option<u32>,
    /// Its availability zone, if it names one.
    pub zone: Option<Arc<str>>,
    /// Whatever else it says about itself, within the limits of this module.
    pub metadata: Arc<BTreeMap<String, String>>,
    /// Whether it wants traffic.
    pub state: InstanceState,
}

impl Description {
    /// One that says nothing but its address, and is named by that.
    fn at(address: Address) -> Self {
        Self {
            id: InstanceId::new(address.to_string()),
            address,
            weight: None,
            zone: None,
            metadata: Arc::default(),
            state: InstanceState::Up,
        }
    }

    fn named(self, name: &str) -> Self {
        Self {
            id: InstanceId::from(name),
            ..self
        }
    }

    /// Takes over metadata, and what it says about zone, weight and draining.
    fn with_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        if let Some(zone) = metadata.get("zone").filter(|zone| !zone.is_empty()) {
            self.zone = Some(zone.as_str().into());
        }
        if let Some(weight) = metadata.get("weight").and_then(|text| json::weight(text)) {
            self.weight = Some(weight);
        }
        // Written by our own registrar.
        if metadata
            .get("state")
            .is_some_and(|state| state == "draining")
        {
            self.state = InstanceState::Draining;
        }
        self.metadata = Arc::new(metadata);
        self
    }
}

/// What one node holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// One instance, which is the usual case.
    Instance(Description),
    /// A list of them.
    List {
        /// Those that can be read.
        instances: Vec<Description>,
        /// Those that cannot, by their position counted from 0, and why.
        faults: Vec<(usize, LayoutError)>,
    },
    /// Weights for other instances: a `vector_` node of a server set.
    Vector(Vector),
}

/// Why a node does not describe an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Its data is too long.
    #[error("{length} bytes of data are over the limit of {limit}")]
    DataTooLong {
        /// Bytes of data.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A list names too many instances.
    #[error("{length} instances in one list are over the limit of {LIST_INSTANCES_MAX}")]
    ListTooLong {
        /// Instances named.
        length: usize,
    },
    /// A list names more hosts that have to be looked up than one list may.
    #[error("more than {LIST_NAMES_MAX} host names in one list")]
    TooManyNames,
    /// The data is not JSON.
    #[error("the data is not JSON: {0}")]
    Json(String),
    /// The data is JSON, but not of the expected type.
    #[error("the data is not a JSON {0}")]
    NotA(&'static str),
    /// A field is missing or null.
    #[error("no {0}")]
    Missing(&'static str),
    /// A field cannot be understood.
    #[error("{field}: {value:?} makes no sense")]
    Field {
        /// Its name.
        field: &'static str,
        /// The beginning of its value.
        value: String,
    },
    /// There is only a port for TLS.
    #[error("no port, only an sslPort")]
    OnlyTls,
    /// An address is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The name is not what the layout asks for.
    #[error("the name is not {0}")]
    Name(&'static str),
    /// Nothing tells which layout this is.
    #[error("neither the name nor the data looks like an instance")]
    Unrecognised,
}

/// Reads a node.
///
/// # Errors
/// When it does not describe an instance. Errors quote at most 64 bytes of what was read.
pub fn read(layout: Layout, name: &str, data: &[u8]) -> Result<Content, LayoutError> {
    let one = |description: Result<Description, LayoutError>| description.map(Content::Instance);
    match layout {
        Layout::Auto => read_auto(name, data),
        Layout::Address => one(address::read(name, data)),
        Layout::Curator | Layout::Spring | Layout::Dubbo3 => {
            one(curator::read(name, &json::object(data)?))
        }
        Layout::Dubbo2 => one(dubbo::read(name)),
        Layout::ServerSet => server_set::read(name, data),
        Layout::Nerve => one(nerve::read(name, data)),
        Layout::Kitex => one(kitex::read(name, data)),
        Layout::Kratos => one(kratos::read(name, &json::object(data)?)),
        Layout::ShenYu => one(shen_yu::read(name, &json::object(data)?)),
        Layout::List => list::read(data),
    }
}

/// Reads the data of a service's own node; `None` if that holds no list.
pub(crate) fn read_service_node(
    layout: Layout,
    data: &[u8],
) -> Option<Result<Content, LayoutError>> {
    let looks_like_list = data.trim_ascii_start().first() == Some(&b'[');
    match layout {
        Layout::Auto => looks_like_list.then(|| list::read(data)),
        Layout::List => (!data.trim_ascii().is_empty()).then(|| list::read(data)),
        Layout::Address
        | Layout::Curator
        | Layout::Spring
        | Layout::Dubbo2
        | Layout::Dubbo3
        | Layout::ServerSet
        | Layout::Nerve
        | Layout::Kitex
        | Layout::Kratos
        | Layout::ShenYu => None,
    }
}

/// Decides by the name, then by how the data begins, then by which fields there are.
fn read_auto(name: &str, data: &[u8]) -> Result<Content, LayoutError> {
    if dubbo::is_url(name) {
        return dubbo::read(name).map(Content::Instance);
    }
    if server_set::is_name(name) {
        return server_set::read(name, data);
    }
    if nerve::is_encoded(name) {
        return nerve::read(name, data).map(Content::Instance);
    }
    let description = match data.trim_ascii_start().first() {
        Some(b'[') => return list::read(data),
        Some(b'{') => {
            let object = json::object(data)?;
            let has = |key: &str| object.contains_key(key);
            if has("serviceEndpoint") {
                return server_set::read(name, data);
            } else if has("payload") || has("serviceType") || has("address") {
                curator::read(name, &object)
            } else if has("endpoints") {
                kratos::read(name, &object)
            } else if has("Weight") || has("Tags") {
                kitex::read_object(name, &object)
            } else if shen_yu::is_entity(&object) {
                shen_yu::read(name, &object)
            } else if has("host") {
                host::read(name, &object)
            } else {
                address::read(name, b"").map_err(|_| LayoutError::Unrecognised)
            }
        }
        Some(_) | None => address::read(name, data),
    };
    description.map(Content::Instance)
}

/// The fields of a JSON object.
type Object = serde_json::Map<String, Value>;

/// The beginning of a text, for errors.
fn excerpt(text: &str) -> String {
    const BYTES_MAX: usize = 64;
    if text.len() <= BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=BYTES_MAX - 3)
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    format!("{}...", &text[..end])
}

/// A host is an address, or a name to be looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A host name of at most 253 letters, digits, `-`, `_` and dots.
    Name(Arc<str>),
}
