//! The diff service and the proxies: what clients ask that unpack by themselves.

use super::super::super::{
    doctor::Place,
    dump::{DIFF, DIFF_PROXY, TRANSFER_PROXY},
};
use super::{ENABLE, Facts, Found, Known, node::is_connected, or_closed};

/// What runs under a proxy's name.
const DIFFER: &str = "io.containerd.differ.v1";

/// Whether pullgate is the first that is asked.
pub(super) fn service(facts: &Facts) -> Known<Vec<Found>> {
    if !is_connected(facts)? {
        return Ok(Vec::new());
    }
    let configured = facts.configured()?;
    let differs = configured.dump.differs();
    let list = differs.join(", ");
    let what = match differs.iter().position(|differ| differ == DIFF_PROXY.0) {
        Some(0) => return Ok(vec![Found::closed(format!("the diff service asks {list}"))]),
        Some(_) => format!("the diff service asks {list}: what {} applies, pullgate never sees", differs[0]),
        None => format!("the diff service asks {list}, and not pullgate: whoever unpacks by themselves passes"),
    };
    let place = of_list(facts)?;
    Ok(vec![Found::open(what, mend_of_list(facts, place.as_ref())?).at(place)])
}

/// Whether the delegating socket is where it must not be.
pub(super) fn in_a_loop(facts: &Facts) -> Known<Vec<Found>> {
    if !is_connected(facts)? {
        return Ok(Vec::new());
    }
    let named = facts.configured()?.dump.differs().iter().any(|differ| differ == TRANSFER_PROXY.0);
    if !named {
        return Ok(vec![Found::closed("the delegating socket is asked by nobody but the transfer service")]);
    }
    let what = format!("the diff service asks {}: a loop, which pullgate refuses", TRANSFER_PROXY.0);
    let place = of_list(facts)?;
    Ok(vec![Found::warning(what, mend_of_list(facts, place.as_ref())?).at(place)])
}

/// Whether both proxies are configured as they must be, and run.
pub(super) fn proxies(facts: &Facts) -> Known<Vec<Found>> {
    if !is_connected(facts)? {
        return Ok(Vec::new());
    }
    let configured = facts.configured()?;
    let mut found = Vec::new();
    for proxy in [DIFF_PROXY, TRANSFER_PROXY] {
        let (name, socket) = proxy;
        let at = |key: &str| configured.place(&[&["proxy_plugins", name, key], &["proxy_plugins", name]]);
        match configured.dump.proxy(name) {
            None => found.push(Found::open(format!("proxy_plugins.{name} is not there"), ENABLE)),
            Some((_, address)) if !configured.dump.has_proxy(proxy) => {
                let what = format!("proxy_plugins.{name} leads to {address}, not to the gate {socket}");
                found.push(Found::open(what, ENABLE).at(at("address")));
            }
            Some(_) => match facts.running()?.plugin(DIFFER, name) {
                Some(plugin) if plugin.error.is_none() => {}
                Some(plugin) => {
                    let why = plugin.error.as_deref().unwrap_or_default();
                    found.push(Found::open(format!("the proxy {name} does not run: {why}"), "restart containerd"));
                }
                None => {
                    let what = format!("containerd runs without the proxy {name}");
                    found.push(Found::open(what, "restart containerd").at(at("type")));
                }
            },
        }
    }
    Ok(or_closed(found, "both proxies run, on pullgate's sockets"))
}

fn of_list(facts: &Facts) -> Known<Option<Place>> {
    Ok(facts.configured()?.place(&[&["plugins", DIFF, "default"], &["plugins", DIFF]]))
}

/// `enable` mends its own file; a later one that sets the list again has to give it up.
fn mend_of_list(facts: &Facts, place: Option<&Place>) -> Known<String> {
    let main = &facts.configured()?.main;
    Ok(match place.filter(|place| place.file != *main) {
        Some(place) => format!("take `default` out of {}, then: {ENABLE}", place.file.display()),
        None => ENABLE.to_owned(),
    })
}
