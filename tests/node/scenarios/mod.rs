//! What must hold on a node. Names say what, files say about what.

mod access;
mod account;
mod base;
mod boot_list;
mod break_glass;
mod chains;
mod cli;
mod coverage;
mod doctor;
mod enable;
mod expect;
mod gates;
mod harness;
mod index;
mod journal;
mod keyless;
mod kill;
mod large;
mod load;
mod malformed;
mod matrix;
mod names;
mod offline;
mod package;
mod policy;
mod registry;
mod remembered;
mod resolve;
mod selftest;
mod service;
mod settings;
mod silent;
mod start;
mod store;
mod suggest;
mod watch;
mod why;

use crate::{
    node::{Result, Suite},
    runner::Scenario,
};

const fn on_every_node(name: &'static str, run: fn(Suite) -> Result<()>) -> Scenario {
    Scenario { name, suites: &Suite::ALL, run }
}

/// For where containerd asks an image verifier: from 2.0 on.
const fn with_verifier(name: &'static str, run: fn(Suite) -> Result<()>) -> Scenario {
    Scenario { name, suites: &[Suite::Forky], run }
}

/// Every scenario. Those that take longest come first, so that none is left alone at the end.
pub const ALL: &[Scenario] = &[
    on_every_node("watch::quarantine-removes-what-is-refused-and-stops-in-time", watch::quarantine),
    on_every_node("coverage::every-path-and-where-it-is-closed", coverage::every_path),
    on_every_node("kill::a-hundred-times-while-images-come-and-start", kill::a_hundred_times),
    on_every_node("kill::sockets-stopped-or-removed", kill::stopped_or_removed_sockets),
    on_every_node("kill::containerd-restarted-and-configured-anew", kill::containerd_restarted_and_configured_anew),
    on_every_node("silent::starts-go-on-while-a-registry-never-answers", silent::starts_go_on),
    on_every_node("large::a-large-layer-is-hashed-and-admitted", large::admitted),
    on_every_node("large::daemon-killed-while-a-layer-is-applied", large::daemon_killed),
    on_every_node("load::many-pulls-of-many-layers-at-once", load::many_pulls),
    on_every_node("service::a-hundred-crashes-then-a-good-start", service::crashes),
    with_verifier("resolve::without-a-daemon-that-answers", resolve::without_a_daemon),
    with_verifier("resolve::an-unsigned-index-is-all-its-children", resolve::indexes),
    with_verifier("resolve::however-a-registry-is-written", resolve::spellings),
    with_verifier("resolve::refused-before-anything-is-fetched", resolve::refused_before_fetching),
    with_verifier("resolve::signed-after-a-denial", resolve::signed_after_a_denial),
    with_verifier("resolve::nobody-but-containerds-verifier-may-ask", resolve::strangers),
    on_every_node("enable::rolled-back-when-containerd-does-not-live", enable::rolled_back),
    on_every_node("enable::there-and-back-to-the-byte", enable::there_and_back),
    on_every_node("enable::what-others-set-up-stays", enable::others_are_kept),
    on_every_node("enable::a-later-file-takes-the-gate-out", enable::drift),
    on_every_node("enable::two-containerds-on-one-node", enable::two_containerds),
    on_every_node("enable::files-that-cannot-be-written", enable::not_writable),
    on_every_node("enable::mode-shows-what-would-be-refused", enable::mode),
    on_every_node("enable::the-package-stays-while-it-is-asked", enable::removal),
    on_every_node("doctor::each-mistake-in-the-configuration-is-named", doctor::configurations),
    on_every_node("doctor::each-way-around-the-configuration-is-named", doctor::around),
    on_every_node("doctor::handlers-without-the-hook-are-named", doctor::handlers),
    on_every_node("doctor::tools-of-others-are-noticed", doctor::tools_of_others),
    on_every_node("doctor::containers-that-reach-a-socket-are-named", doctor::mounts),
    on_every_node("doctor::what-cannot-be-looked-at-is-not-closed", doctor::without),
    on_every_node("watch::told-once-for-each-policy", watch::told_once),
    on_every_node("watch::what-was-there-before-anything-refused", watch::from_before),
    on_every_node("watch::a-handler-without-the-hook-is-a-way-around", watch::way_around),
    on_every_node("base::only-hooks-differ-in-a-container", base::only_hooks_differ),
    on_every_node("base::hooks-of-an-administrator-stay", base::own_hooks),
    on_every_node("base::drift-is-told-and-mended", base::drift),
    on_every_node("base::rolled-back-or-never-written", base::not_written),
    on_every_node("base::the-package-stays-while-it-is-asked", base::removal),
    on_every_node("selftest::each-gate-is-seen-to-refuse", selftest::proven),
    on_every_node("selftest::what-takes-a-gate-out-is-seen-unasked", selftest::taken_out),
    on_every_node("selftest::a-handler-without-the-hook-is-open", selftest::handler_added),
    on_every_node("selftest::killed-in-the-middle-it-leaves-nothing", selftest::killed),
    on_every_node("selftest::led-away-it-proves-nothing", selftest::led_away),
    on_every_node("chains::layers-of-admitted-images-rearranged", chains::rearranged),
    on_every_node("chains::signed-bytes-as-layer-or-configuration", chains::signed_bytes),
    on_every_node("matrix::every-sort-of-image-by-every-path", matrix::every_sort),
    on_every_node("boot_list::all-that-is-left-when-all-else-is-broken", boot_list::all_else_broken),
    on_every_node("boot_list::seeded-from-what-the-node-runs", boot_list::seeded),
    on_every_node("boot_list::shown-and-written-by-enable", boot_list::by_enable),
    on_every_node("break_glass::a-pass-admits-and-ends", break_glass::there_and_back),
    on_every_node("break_glass::whatever-else-is-broken", break_glass::whatever_else_is_broken),
    on_every_node("break_glass::a-pods-label-counts-where-it-is-said", break_glass::pods),
    on_every_node("index::signed-index-and-signed-child", index::children),
    on_every_node("index::forgotten-by-containerd-it-still-counts", index::forgotten),
    on_every_node("malformed::documents-that-read-two-ways", malformed::documents),
    on_every_node("names::an-archive-does-not-inherit-a-name", names::archive),
    on_every_node("gates::nobody-but-containerd-may-ask", gates::strangers),
    on_every_node("gates::a-loop-in-the-configuration-is-refused", gates::in_a_loop),
    on_every_node("service::stopped-with-its-sockets-nothing-passes", service::stopped),
    on_every_node("service::stopped-alone-the-next-pull-starts-it", service::started_by_pull),
    on_every_node("service::killed-while-deciding", service::killed_while_deciding),
    on_every_node("service::running-containers-live-on", service::containers_live_on),
    on_every_node("settings::broken-policy-at-reload", settings::policy_at_reload),
    on_every_node("settings::in-force-once-a-reload-has-ended", settings::in_force_after_reload),
    on_every_node("settings::broken-policy-at-start", settings::policy_at_start),
    on_every_node("settings::broken-configuration-at-reload", settings::config_at_reload),
    on_every_node("settings::broken-configuration-at-start", settings::config_at_start),
    on_every_node("settings::a-key-file-that-is-no-key", settings::bad_key),
    on_every_node("settings::audit-mode-admits-and-records", settings::audit_mode),
    on_every_node("journal::stopped-nothing-is-admitted", journal::stopped),
    on_every_node("store::layers-discarded-after-unpacking", store::discarded_layers),
    on_every_node("store::content-isolated-by-namespace", store::isolated_content),
    on_every_node("remembered::what-was-admitted-needs-no-registry", remembered::without_a_registry),
    on_every_node("remembered::a-full-disk-costs-memory-alone", remembered::full_disk),
    on_every_node("remembered::what-has-ended-stays-so-over-a-restart", remembered::time),
    on_every_node("offline::a-directory-of-evidence-and-no-registry", offline::directory),
    on_every_node("offline::an-archive-brings-its-signatures-along", offline::imported),
    on_every_node("access::tls-a-password-and-a-mirror-as-containerd-has-them", access::secured),
    on_every_node("registry::private-images-need-evidence-that-the-node-can-read", registry::private),
    on_every_node("registry::down-slow-or-lying", registry::trouble),
    on_every_node("keyless::whom-a-certificate-names-decides-at-every-gate", keyless::at_every_gate),
    on_every_node("keyless::a-root-that-breaks-and-a-registry-that-goes", keyless::without),
    on_every_node("cli::check-status-and-daemon-check", cli::commands),
    on_every_node("account::proven-by-its-token", account::proven_by_its_token),
    on_every_node("suggest::what-is-on-the-node-becomes-its-policy", suggest::from_the_node),
    on_every_node("why::a-refusal-explains-itself", why::explained),
    on_every_node("why::check-tells-the-same", why::agrees_with_check),
    on_every_node("policy::one-document-for-every-stage", policy::stages),
    on_every_node("policy::namespaces-tags-and-labels-decide-at-the-start", policy::places),
    on_every_node("start::what-it-is-made-of-decides", start::what_it_is_made_of),
    on_every_node("start::what-it-is-called-decides", start::what_it_is_called),
    on_every_node("start::what-runs-once-does-not-fail-for-good", start::runs_once),
    on_every_node("package::installing-and-removing-leave-containerd-alone", package::comes_and_goes),
    on_every_node("harness::every-path-brings-an-image-onto-a-node-without-gates", harness::every_path),
    on_every_node("harness::containers-run-on-a-gated-node", harness::containers),
];
