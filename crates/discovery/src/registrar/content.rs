//! What the registrar writes into an instance's node.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::address::InstanceAddress;

/// The longest content that is written, in bytes; what readers take of a node (ours and Curator's)
/// is more, and a real one has a few hundred.
pub const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// The metadata key that says whether the instance wants traffic.
pub(crate) const STATE: &str = "state";

/// The value of [`STATE`] while the instance drains.
pub(crate) const DRAINING: &str = "draining";

/// What an instance says about itself besides its address. It may change while it is registered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Its share of the traffic relative to the others'; `None` leaves it to the gateways.
    pub weight: Option<u32>,
    /// Its availability zone.
    pub zone: Option<String>,
    /// Whatever else it says. `weight` and `zone` in here give way to the fields above.
    pub metadata: BTreeMap<String, String>,
}

/// The form of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Form {
    /// The JSON of Curator's service discovery, which every kind of reader understands.
    #[default]
    Curator,
    /// The bare address. A description has no place in it.
    Plain,
}

/// One registration of an instance, as far as its content depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registered<'a> {
    pub(crate) service: &'a str,
    pub(crate) address: &'a InstanceAddress,
    /// Milliseconds since 1970.
    pub(crate) since_ms: u64,
}

/// Curator's `ServiceInstance`, with its fields in its order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceInstance<'a> {
    name: &'a str,
    id: &'a str,
    address: &'a str,
    port: u16,
    ssl_port: Option<u16>,
    payload: Payload,
    #[serde(rename = "registrationTimeUTC")]
    registration_time: u64,
    service_type: &'static str,
    uri_spec: Option<()>,
}

#[derive(Serialize)]
struct Payload {
    metadata: BTreeMap<String, String>,
}

/// The content of a node in service.
pub(crate) fn render(registered: Registered<'_>, form: Form, description: &Description) -> Vec<u8> {
    match form {
        Form::Plain => registered.address.to_string().into_bytes(),
        Form::Curator => curator(registered, description, None),
    }
}

/// The content of a node that drains. What somebody else may have written since is kept where it is
/// Curator's JSON; everything else becomes it, for a bare address cannot say that it drains.
pub(crate) fn render_draining(
    registered: Registered<'_>,
    form: Form,
    description: &Description,
    current: &[u8],
) -> Vec<u8> {
    let ours = || curator(registered, description, Some(DRAINING));
    if current == render(registered, form, description) {
        return ours();
    }
    let Ok(Value::Object(mut object)) = serde_json::from_slice(current) else {
        return ours();
    };
    let Some(Value::Object(payload)) = object.get_mut("payload") else {
        return ours();
    };
    let Some(Value::Object(metadata)) = payload.get_mut("metadata") else {
        return ours();
    };
    metadata.insert(STATE.to_owned(), DRAINING.into());
    Value::Object(object).to_string().into_bytes()
}

fn curator(registered: Registered<'_>, description: &Description, state: Option<&str>) -> Vec<u8> {
    let mut metadata = description.metadata.clone();
    let fields = [
        (
            "weight",
            description.weight.map(|weight| weight.to_string()),
        ),
        ("zone", description.zone.clone()),
        (STATE, state.map(str::to_owned)),
    ];
    for (key, value) in fields {
        if let Some(value) = value {
            metadata.insert(key.to_owned(), value);
        }
    }
    let instance = ServiceInstance {
        name: registered.service,
        id: &registered.address.to_string(),
        address: registered.address.host(),
        port: registered.address.port(),
        ssl_port: None,
        payload: Payload { metadata },
        registration_time: registered.since_ms,
        service_type: "DYNAMIC",
        uri_spec: None,
    };
    serde_json::to_vec(&instance).expect("maps with text keys, text and numbers are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(content: Vec<u8>) -> String {
        String::from_utf8(content).unwrap()
    }

    fn description() -> Description {
        Description {
            weight: Some(20),
            zone: Some("a".to_owned()),
            metadata: BTreeMap::new(),
        }
    }

    const CONTENT: &str = r#"{"name":"orders","id":"10.0.0.3:8080","address":"10.0.0.3","port":8080,"sslPort":null,"payload":{"metadata":{"weight":"20","zone":"a"}},"registrationTimeUTC":1795338721825,"serviceType":"DYNAMIC","uriSpec":null}"#;

    #[test]
    fn the_content_is_curators() {
        let address: InstanceAddress = "10.0.0.3:8080".parse().unwrap();
        let registered = Registered {
            service: "orders",
            address: &address,
            since_ms: 1_795_338_721_825,
        };
        let render = |form| text(render(registered, form, &description()));
        assert_eq!(render(Form::Curator), CONTENT);
        assert_eq!(render(Form::Plain), "10.0.0.3:8080");

        let draining = |form, current: &str| {
            let current = current.as_bytes();
            text(render_draining(registered, form, &description(), current))
        };
        let expected = CONTENT.replace(r#""weight":"20""#, r#""state":"draining","weight":"20""#);
        assert_eq!(draining(Form::Curator, CONTENT), expected);
        for current in ["10.0.0.3:8080", "", "{", "[]", "{}", r#"{"payload":"x"}"#] {
            assert_eq!(draining(Form::Plain, current), expected);
        }
        // An operator has set another weight and a key of their own.
        let edited = r#"{"payload":{"metadata":{"weight":"5","note":"x"},"k":1}}"#;
        assert_eq!(
            draining(Form::Curator, edited),
            r#"{"payload":{"k":1,"metadata":{"note":"x","state":"draining","weight":"5"}}}"#
        );
    }

    #[test]
    fn an_ipv6_address_has_brackets_in_the_id_only() {
        let address: InstanceAddress = "[::1]:8080".parse().unwrap();
        let registered = Registered {
            service: "orders",
            address: &address,
            since_ms: 1,
        };
        let content = text(render(registered, Form::Curator, &Description::default()));
        assert!(
            content.starts_with(
                r#"{"name":"orders","id":"[::1]:8080","address":"::1","port":8080,"sslPort":null,"payload":{"metadata":{}},"#
            ),
            "{content}"
        );
    }

    #[test]
    fn fields_win_over_metadata() {
        let address: InstanceAddress = "a:1".parse().unwrap();
        let registered = Registered {
            service: "s",
            address: &address,
            since_ms: 1,
        };
        let mut description = description();
        for key in ["weight", "zone", "version"] {
            description.metadata.insert(key.to_owned(), "7".to_owned());
        }
        let content = text(render(registered, Form::Curator, &description));
        assert!(
            content.contains(r#"{"version":"7","weight":"20","zone":"a"}"#),
            "{content}"
        );
    }
}
