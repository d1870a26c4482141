//! Every limit is reached by a test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const ACCOUNTS: &str = "src/verify/token/tests.rs";
const ATTEMPTS: &str = "tests/attempts.rs";
const BEHIND: &str = "src/gate/start/behind.rs";
const BOUNDS: &str = "tests/registry/bounds.rs";
const CONTAINERS: &str = "src/containerd/containers/tests.rs";
const CONTENT: &str = "src/evidence/content/bounds.rs";
const DECISIONS: &str = "tests/registry/decisions.rs";
const GLASS: &str = "src/break_glass/passes/tests.rs";
const IMPORTED: &str = "src/evidence/content/imported/tests.rs";
const KEPT: &str = "src/evidence/kept/tests.rs";
const LISTED: &str = "src/evidence/listed/tests.rs";
const OF_CONTAINER: &str = "src/evidence/content/of_container.rs";
const PODS: &str = "src/node/static_pods.rs";
const PROOF: &str = "src/verify/proof.rs";
const POLICY: &str = "src/policy/document/tests.rs";
const SANDBOX: &str = "src/node/sandbox.rs";
const VERIFIED: &str = "src/gate/watch/verified.rs";
const WATCH: &str = "src/gate/watch/tests.rs";
const WATCHED_CONTAINERS: &str = "src/gate/watch/tests/containers.rs";
const WATCHED_REGISTRIES: &str = "src/gate/watch/tests/registries.rs";
const START: &str = "src/gate/start/tests.rs";
const HOSTS: &str = "src/evidence/registry/hosts/tests.rs";
const CREDENTIALS: &str = "src/evidence/registry/credentials/tests.rs";
const MIRRORS: &str = "tests/registry/mirrors.rs";
const PRIVATE: &str = "src/admission/private.rs";
const LEDGER: &str = "src/evidence/registry/ledger.rs";
const TOKENS: &str = "src/evidence/registry/token.rs";

/// Each limit, and the test that goes as far as it and beyond.
const REACHED: &[(&str, &str, &str)] = &[
    ("ABSENT_LIFE", "src/policy/evaluate/tests.rs", "a_refusal_says_what_was_found_against_what_was_expected"),
    ("ACCEPT_PAUSE", "src/gate/diff.rs", "a_connection_that_cannot_be_accepted_is_no_reason_to_spin"),
    ("ADVICE_CHARS", "src/policy/decision/tests.rs", "the_advice_of_the_rules_author_stands_where_the_mend_does"),
    ("AUDIT_FIELD_BYTES", "src/audit/entry.rs", "long_values_are_cut_between_characters"),
    ("AUDIT_MODE_WAIT", "src/gate/unpack/tests.rs", "audit_mode_waits_for_nothing_long"),
    ("AUDIT_NUMBERS", "src/audit/numbers.rs", "a_crash_skips_numbers_and_repeats_none"),
    ("AUDIT_PAUSE", "tests/audit.rs", "without_journald_nothing_is_written_and_its_return_is_noticed"),
    ("AUDIT_VALUES", "tests/audit.rs", "an_oversize_entry_is_passed_in_sealed_memory_and_keeps_the_chain"),
    ("AUDIT_WAIT", "tests/audit.rs", "a_stalled_journald_withholds_and_each_caller_waits_at_most_its_own_time"),
    ("AUDIT_WORD_CHARS", "src/audit/record/tests.rs", "a_line_is_as_long_as_a_line_may_be_whatever_is_named"),
    ("BACK_OFF", "src/evidence/registry/backoff.rs", "seconds_and_dates_are_read_and_bounded"),
    ("CHECKPOINT_SIGNATURES", ATTEMPTS, "a_checkpoint_with_thousands_of_signatures_is_not_tried_one_by_one"),
    ("CERTIFICATE_BYTES", HOSTS, "what_cannot_be_read_is_an_error_that_names_it"),
    ("CREDENTIALS", CREDENTIALS, "the_answers_that_are_kept_are_bounded"),
    ("CREDENTIALS_FILE_BYTES", CREDENTIALS, "a_file_that_cannot_be_used_is_an_error_without_its_content"),
    ("CREDENTIAL_LIFE", CREDENTIALS, "an_answer_is_renewed_before_it_ends_and_kept_no_longer_than_is_sensible"),
    ("CREDENTIAL_REFUSED", TOKENS, "a_credential_that_was_refused_rests_for_a_while"),
    ("CREDENTIAL_SLACK", CREDENTIALS, "an_answer_is_renewed_before_it_ends_and_kept_no_longer_than_is_sensible"),
    ("HELPER", "tests/registry/secrets.rs", "a_helper_that_fails_is_a_cause_of_its_own_and_no_other_registry_minds"),
    ("HELPER_BYTES", CREDENTIALS, "a_helper_that_misbehaves_is_an_error_of_its_own_in_time"),
    ("HELPER_CHARS", CREDENTIALS, "a_helper_that_misbehaves_is_an_error_of_its_own_in_time"),
    ("HELPER_FAILED", CREDENTIALS, "a_provider_that_misbehaves_is_an_error_that_is_remembered_for_a_moment"),
    ("HOSTS_FILE_BYTES", HOSTS, "what_cannot_be_read_is_an_error_that_names_it"),
    ("HOST_AUTHORITIES", HOSTS, "what_cannot_be_read_is_an_error_that_names_it"),
    ("MIRRORS", "src/evidence/registry/hosts/file.rs", "as_many_mirrors_are_asked_as_there_is_time_for"),
    ("MIRROR_HEDGE", MIRRORS, "a_mirror_that_is_slow_delays_no_other_host_for_long"),
    ("MIRROR_PATIENCE", MIRRORS, "what_is_wrong_with_a_mirror_counts_only_where_the_registry_could_not_tell_either"),
    ("PARALLEL_HELPERS", CREDENTIALS, "one_question_is_asked_once_at_a_time_and_only_so_many_at_all"),
    (
        "PARALLEL_OF_REGISTRY",
        "src/evidence/registry/turns.rs",
        "one_registry_takes_no_turn_of_another_and_claims_share_theirs",
    ),
    ("PRIVATE_IMAGES", PRIVATE, "an_image_counts_until_it_could_be_judged_or_nobody_asks_for_it_any_more"),
    ("PRIVATE_MEMORY", PRIVATE, "an_image_counts_until_it_could_be_judged_or_nobody_asks_for_it_any_more"),
    ("REQUESTS_TOLD", LEDGER, "the_last_requests_are_told_in_short_and_without_their_queries"),
    ("REQUEST_CHARS", LEDGER, "the_last_requests_are_told_in_short_and_without_their_queries"),
    ("TLS_CLIENTS", "src/evidence/registry/client.rs", "clients_of_certificates_that_changed_are_not_kept_without_end"),
    ("BEHIND", BEHIND, "each_is_verified_once_a_few_at_a_time_and_there_is_an_end"),
    ("AUTHORITY_CERTIFICATES", "src/trust/authority.rs", "what_holds_no_certificate_is_no_authority"),
    ("BUNDLE_CERTIFICATES", PROOF, "what_takes_long_to_verify_is_bounded"),
    ("BUNDLE_LOG_ENTRIES", PROOF, "what_takes_long_to_verify_is_bounded"),
    ("BUNDLE_PROOF_HASHES", PROOF, "what_takes_long_to_verify_is_bounded"),
    ("BUNDLE_TIMESTAMPS", PROOF, "what_takes_long_to_verify_is_bounded"),
    ("PATTERN_BYTES", "src/trust/identity.rs", "what_is_no_anchored_pattern_is_an_error"),
    ("PATTERN_CHARS", "src/trust/identity.rs", "what_is_no_anchored_pattern_is_an_error"),
    ("TRUST_ROOT_AUTHORITIES", "src/trust/root.rs", "the_authorities_of_one_kind_are_bounded"),
    ("BOOT_DIGESTS", "src/boot/tests.rs", "the_list_is_bounded"),
    ("BOOT_FILE_BYTES", "src/boot/tests.rs", "a_file_is_bounded"),
    ("BREAKS_TOLD", "src/cli/audit/tests.rs", "gaps_and_restarts_are_told_apart"),
    ("BREAK_GLASS", GLASS, "there_are_only_so_many"),
    ("BREAK_GLASS_BYTES", GLASS, "a_damaged_file_admits_nobody_raises_the_alarm_and_stands_in_nobodys_way"),
    ("BREAK_GLASS_NOTED", GLASS, "its_end_is_recorded_once_by_time_by_root_or_after_a_restart"),
    ("BREAK_GLASS_QUESTION", GLASS, "root_asks_over_a_socket_in_bounds"),
    ("BREAK_GLASS_REASON", "src/break_glass/pass/tests.rs", "a_reason_says_something_in_one_line"),
    ("CANDIDATE_MANIFESTS", CONTENT, "the_manifests_that_list_a_layer_are_bounded"),
    ("CHALLENGE_CHARS", TOKENS, "an_endless_challenge_is_not_read"),
    ("CLOCK_BEHIND", "src/clock.rs", "a_clock_that_is_far_behind_is_told"),
    ("CLOCK_KEPT", "src/clock.rs", "the_newest_time_is_noted_now_and_then"),
    ("COMPLAINT_BYTES", "src/cli/journalctl.rs", "of_complaints_the_beginning_is_kept_and_all_is_read"),
    ("CONTAINERD_CALL", "src/containerd/tests.rs", "no_call_is_waited_for_without_end"),
    ("CONTAINERD_CONFIG_BYTES", SANDBOX, "a_configuration_of_any_size_is_bounded"),
    ("CONFIGURATIONS", OF_CONTAINER, "what_is_remembered_is_bounded"),
    ("CONTAINER_PARTS", CONTAINERS, "the_parts_of_a_container_are_bounded"),
    ("CONTACT_CHARS", POLICY, "each_mistake_is_one_error_with_its_place_and_its_mend"),
    ("DECISIONS", "src/decisions.rs", "the_decisions_are_bounded"),
    ("DECISION_DEADLINE", "src/gate/unpack/tests.rs", "a_decision_has_a_deadline"),
    (
        "DOCTOR_CONTAINERS",
        "src/node/doctor/gather/containers.rs",
        "more_containers_than_are_looked_at_are_not_taken_for_none",
    ),
    ("DIRECTORY_NAMES", "tests/on_node.rs", "the_names_in_a_directory_are_bounded"),
    ("DOCUMENT_BYTES", "src/config/tests.rs", "a_document_of_any_size_is_bounded"),
    ("ENTRIES_HELD", "src/cli/audit/tests.rs", "as_many_entries_can_be_asked_for_as_are_held"),
    ("ESSENTIAL_IMAGES", "src/containerd/tests.rs", "the_images_of_containers_are_told_once_each_up_to_the_limit"),
    (
        "EVENTS_PAUSE",
        "src/containerd/events.rs",
        "who_stops_telling_is_listened_to_again_after_a_pause_and_each_beginning_is_known",
    ),
    ("EVIDENCE_BYTES", BOUNDS, "a_piece_larger_than_the_limit_is_not_asked_for"),
    ("EVIDENCE_DEADLINE", DECISIONS, "evidence_is_waited_for_only_so_long"),
    ("EVIDENCE_HELD_BYTES", BOUNDS, "all_searches_together_hold_no_more_than_is_allowed"),
    ("EVIDENCE_ITEMS", BOUNDS, "more_signatures_than_the_limit_are_said_to_be_more"),
    ("EVIDENCE_NAMESPACES", IMPORTED, "a_containerd_that_fails_is_a_gap_and_its_namespaces_are_bounded"),
    ("EVIDENCE_ON_NODE", IMPORTED, "a_source_that_hangs_is_left_for_the_next"),
    ("EVIDENCE_TOTAL_BYTES", BOUNDS, "all_pieces_together_are_bounded_and_the_small_ones_come_first"),
    ("EVIDENCE_WAITING", BOUNDS, "what_nobody_takes_is_not_read_ahead"),
    ("EXTRACTS_TOLD", "src/gate/extracts.rs", "what_is_told_is_bounded_and_the_newest_stay"),
    ("GAP_CHARS", "src/evidence/mod.rs", "of_what_a_registry_says_a_little_is_kept"),
    ("GROUNDS_BYTES", "src/policy/grounds/tests.rs", "whatever_an_attacker_chooses_it_stays_small_and_harmless"),
    ("GROUNDS_CHARS", "src/policy/grounds/tests.rs", "kinds_of_what_does_not_count_are_few_and_short"),
    ("INDEX_CHILDREN", "src/image/manifest/tests.rs", "what_a_document_lists_is_bounded"),
    ("INDEX_CHOICES", "tests/registry/decisions.rs", "an_index_with_many_children_for_one_node_is_refused"),
    (
        "INVENTORY_LIFE",
        IMPORTED,
        "what_is_there_is_listed_once_for_many_that_are_asked_about_at_a_time_and_anew_for_what_is_new",
    ),
    ("JOURNAL_ENTRY_BYTES", "src/audit/chain.rs", "entries_are_read_one_at_a_time_and_each_is_bounded"),
    ("NODE_CONTAINERS", WATCHED_CONTAINERS, "the_containers_of_a_namespace_are_bounded"),
    ("NODE_DOCUMENTS", "src/evidence/content/inventory/tests.rs", "the_documents_of_a_namespace_are_bounded"),
    ("NODE_LINKS", "src/evidence/content/inventory/tests.rs", "what_documents_list_is_bounded"),
    ("TOLD_PAUSE", WATCH, "several_records_of_one_image_are_looked_at_together_and_what_happens_meanwhile_too"),
    ("TOLD_WAITING", WATCH, "more_than_there_is_room_for_leads_to_a_walk"),
    ("VERIFY_AGAIN", VERIFIED, "an_answer_holds_for_its_policy_and_a_lack_of_one_is_asked_for_ever_more_rarely"),
    ("VERIFY_AGAIN_MOST", VERIFIED, "an_answer_holds_for_its_policy_and_a_lack_of_one_is_asked_for_ever_more_rarely"),
    (
        "PARALLEL_VERIFICATIONS",
        WATCHED_REGISTRIES,
        "registries_are_asked_little_at_a_time_and_left_in_peace_when_they_ask_for_it",
    ),
    (
        "VERIFY_PAUSE",
        WATCHED_REGISTRIES,
        "registries_are_asked_little_at_a_time_and_left_in_peace_when_they_ask_for_it",
    ),
    ("WALK_LONGEST", WATCH, "a_walk_that_fails_is_tried_again_ever_later_and_one_that_hangs_ends"),
    ("WALK_RETRY", WATCH, "a_walk_that_fails_is_tried_again_ever_later_and_one_that_hangs_ends"),
    ("WATCHED", "src/gate/watch/seen.rs", "what_is_remembered_is_bounded"),
    ("KEPT_BYTES", KEPT, "beyond_the_bounds_the_least_recently_used_go"),
    ("KEPT_IMAGES", KEPT, "beyond_the_bounds_the_least_recently_used_go"),
    ("KEPT_IMAGE_BYTES", KEPT, "what_is_kept_about_one_image_is_bounded_and_the_newest_stays"),
    ("KEPT_PIECES", KEPT, "what_is_kept_about_one_image_is_bounded_and_the_newest_stays"),
    ("KEPT_WAITING", KEPT, "who_asks_for_more_than_the_disk_takes_loses_it"),
    ("KEY_FILE_BYTES", "src/activation/tests.rs", "files_of_any_size_are_bounded"),
    ("LAYERS", "src/image/manifest/tests.rs", "what_a_document_lists_is_bounded"),
    ("LAYOUT_DEPTH", LISTED, "indexes_within_each_other_end"),
    ("LAYOUT_DOCUMENTS", LISTED, "the_documents_that_are_looked_into_are_bounded_and_what_is_named_comes_first"),
    ("LAYOUT_GRACE", "tests/registry/failures.rs", "one_bad_piece_keeps_no_other_from_being_read"),
    ("LAYOUT_HEDGE", "tests/registry/layouts.rs", "a_layout_that_does_not_answer_delays_no_other"),
    ("LAYOUT_PATIENCE", "tests/registry/layouts.rs", "bogus_evidence_that_stalls_does_not_hide_another_layout"),
    ("LOG_FLUSH", "src/log.rs", "a_stalled_journal_does_not_keep_the_process_from_ending"),
    ("LOG_LINE_BYTES", "src/log.rs", "lines_arrive_with_their_level_and_fields"),
    ("LOG_QUEUE", "src/log.rs", "a_stalled_journal_costs_lines_and_no_time"),
    ("MANIFEST_BYTES", CONTENT, "a_document_is_bounded"),
    ("MESSAGE_CHARS", "src/policy/decision/tests.rs", "the_message_keeps_its_length_and_its_ends_whatever_is_put_in"),
    ("NAMES", "src/evidence/content.rs", "what_containerd_noted_comes_before_what_an_archive_says_and_there_is_an_end"),
    ("NAMES_TOLD", "src/policy/shortfall.rs", "as_many_names_are_told_as_a_person_reads"),
    ("PARALLEL_BEHIND", BEHIND, "each_is_verified_once_a_few_at_a_time_and_there_is_an_end"),
    ("PARALLEL_DECISIONS", DECISIONS, "decisions_that_gather_evidence_take_turns"),
    ("PARALLEL_FETCHES", BOUNDS, "requests_in_flight_are_bounded"),
    ("PARALLEL_HASHES", "src/evidence/hashed.rs", "files_are_hashed_a_few_at_a_time"),
    ("PARALLEL_LOOKUPS", "src/evidence/registry/address.rs", "names_are_looked_up_a_few_at_a_time"),
    (
        "PARALLEL_QUESTIONS",
        "src/gate/resolve/tests.rs",
        "verifiers_that_say_nothing_are_not_waited_for_and_hold_up_only_so_many",
    ),
    ("PARALLEL_SEARCHES", IMPORTED, "searches_take_turns"),
    ("PARALLEL_STARTS", START, "hooks_that_say_nothing_are_not_waited_for_and_hold_up_only_so_many"),
    ("PARALLEL_SUBJECTS", DECISIONS, "the_subjects_of_one_request_take_turns"),
    ("PARENT_INDEXES", CONTENT, "the_indexes_that_list_a_manifest_are_bounded"),
    ("PASSES", "src/gate/unpack/tests.rs", "passes_are_bounded_in_number_and_time"),
    ("PASS_LIFE", "src/gate/unpack/tests.rs", "passes_are_bounded_in_number_and_time"),
    ("POD_BYTES", PODS, "a_manifest_is_bounded"),
    ("POD_FILES", PODS, "the_files_are_bounded"),
    ("PODS", START, "what_is_remembered_of_pods_is_bounded"),
    ("QUESTION_ARGUMENTS", "src/gate/resolve/question.rs", "a_question_of_any_other_length_is_refused"),
    ("LABEL_SETS", POLICY, "rules_are_told_apart_by_as_many_sets_of_labels_as_a_person_can_compare"),
    ("PROBLEM_CHARS", "tests/policy/bad.rs", "each_mistake_is_told_once_in_one_harmless_line_and_in_time"),
    ("QUOTED_CHARS", "tests/policy/bad.rs", "each_mistake_is_told_once_in_one_harmless_line_and_in_time"),
    ("WORDS_COMPARED", "src/document/reader.rs", "a_word_is_compared_with_so_many_and_only_where_it_could_be_one"),
    ("PROBLEMS", POLICY, "of_many_mistakes_a_person_is_told_some"),
    ("PROGRAM", "src/node/program.rs", "a_program_that_fails_says_why_and_one_that_hangs_is_ended"),
    ("QUESTION_BYTES", "src/gate/resolve/question.rs", "a_question_of_any_other_length_is_refused"),
    ("RECORD_BYTES", CONTAINERS, "a_container_is_there_or_not_and_its_record_is_bounded"),
    ("RECHECK_AFTER", "src/policy/evaluate/tests.rs", "an_allow_is_looked_at_again_after_a_while"),
    ("REDIRECTS", BOUNDS, "redirects_end"),
    ("REFERENCE_CHARS", "src/image/reference.rs", "a_reference_is_bounded"),
    ("REFERRERS", BOUNDS, "ten_thousand_referrers_are_not_all_read"),
    ("REFERRERS_API_MEMORY", "src/evidence/registry/habits.rs", "a_missing_referrers_api_is_believed_for_a_while"),
    ("REFERRERS_PAGES", BOUNDS, "endless_pages_end"),
    ("REFERRERS_PAGE_BYTES", BOUNDS, "a_list_of_referrers_is_bounded_in_bytes"),
    ("REGISTRY_CONNECT", BOUNDS, "a_registry_that_takes_no_connection_is_given_up"),
    ("REGISTRY_HABITS", "src/evidence/registry/habits.rs", "the_memory_is_bounded"),
    ("REGISTRY_IDLE", BOUNDS, "an_idle_connection_is_given_up"),
    ("REGISTRY_REQUEST", BOUNDS, "one_request_takes_no_longer_than_its_limit"),
    ("REGISTRY_TRIES", BOUNDS, "a_registry_that_fails_is_asked_as_often_as_the_limit_says"),
    ("RELOAD", "src/reload.rs", "a_daemon_that_does_not_answer_is_not_waited_for_without_end"),
    ("REQUIREMENT_ATTESTORS", POLICY, "a_requirement_is_no_deeper_and_no_wider_than_a_person_can_read"),
    ("REQUIREMENT_DEPTH", POLICY, "a_requirement_is_no_deeper_and_no_wider_than_a_person_can_read"),
    ("REQUIREMENT_WAYS", POLICY, "a_requirement_is_no_deeper_and_no_wider_than_a_person_can_read"),
    ("RESOLVE_DEADLINE", "src/gate/resolve/tests.rs", "a_question_is_decided_in_time_or_refused"),
    ("RESTART", "src/node/program.rs", "a_program_that_fails_says_why_and_one_that_hangs_is_ended"),
    ("RETRY_AFTER", "src/evidence/registry/failure.rs", "a_registry_that_asks_for_patience_gets_some"),
    ("RETRY_PAUSE", "src/evidence/registry/failure.rs", "what_can_pass_is_asked_again_after_a_pause"),
    ("RULE_MESSAGE_CHARS", POLICY, "each_mistake_is_one_error_with_its_place_and_its_mend"),
    ("SANDBOX_LOOK", SANDBOX, "a_containerd_that_does_not_answer_is_not_waited_for"),
    ("SANDBOX_PAUSE", "src/daemon.rs", "a_containerd_that_comes_up_later_is_found"),
    ("SELF_TEST", "src/selftest/tests.rs", "a_containerd_that_hangs_proves_nothing_and_is_not_waited_for_without_end"),
    ("SELF_TEST_ASKERS", "src/selftest/tests.rs", "so_many_may_ask_at_the_same_time_and_share_one_run"),
    ("SERVICE_ACCOUNT_KEYS", ACCOUNTS, "a_key_set_that_cannot_be_used_in_full_is_an_error"),
    ("SERVICE_ACCOUNT_TOKEN_BYTES", ACCOUNTS, "a_token_is_bounded"),
    ("SHOWN_CHARS", "src/cli/page.rs", "nothing_reaches_a_terminal_as_it_came"),
    ("SMALL_EVIDENCE_BYTES", BOUNDS, "all_pieces_together_are_bounded_and_the_small_ones_come_first"),
    ("START_DEADLINE", START, "a_containerd_that_is_slow_refuses_in_time"),
    ("START_QUESTION_BYTES", "src/gate/start/state.rs", "a_state_is_bounded"),
    ("STRUCTURE_BYTES", "src/evidence/structure.rs", "what_would_take_much_memory_is_refused_by_its_structure"),
    ("LOG_ENTRY_BYTES", PROOF, "a_log_entry_is_no_larger_than_is_soon_read"),
    ("SIGNER_CERTIFICATE_BYTES", ATTEMPTS, "names_and_attributes_that_take_long_to_put_in_order_are_not"),
    ("TIMESTAMP_BYTES", ATTEMPTS, "names_and_attributes_that_take_long_to_put_in_order_are_not"),
    ("SUBJECTS", "src/admission.rs", "the_subjects_of_one_request_are_bounded"),
    ("SUMMARY_ROWS", "src/cli/audit/tests.rs", "the_most_frequent_come_first_and_inventing_names_costs_no_memory"),
    ("SUMMARY_VALUES", "src/cli/audit/tests.rs", "the_most_frequent_come_first_and_inventing_names_costs_no_memory"),
    ("TOKENS", TOKENS, "tokens_are_bounded"),
    ("TOKEN_BYTES", "tests/registry/credentials.rs", "a_token_service_may_fail_like_a_registry"),
    ("TOKEN_LIFE_LEAST", TOKENS, "a_token_is_used_neither_shorter_nor_longer_than_is_sensible"),
    ("TOKEN_LIFE_MOST", TOKENS, "a_token_is_used_neither_shorter_nor_longer_than_is_sensible"),
    ("TOKEN_SLACK", TOKENS, "a_token_is_used_neither_shorter_nor_longer_than_is_sensible"),
    ("UNCOUNTED_KINDS", "src/policy/grounds/tests.rs", "kinds_of_what_does_not_count_are_few_and_short"),
    (
        "VERIFIER_PATIENCE",
        "src/gate/resolve/tests.rs",
        "verifiers_that_say_nothing_are_not_waited_for_and_hold_up_only_so_many",
    ),
    ("VIOLATION_CHARS", "src/policy/evaluate/tests.rs", "what_a_violation_says_is_kept_in_short"),
    ("WALK", "src/daemon.rs", "a_containerd_that_hangs_does_not_keep_a_policy_from_taking_force"),
];

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(here(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of the constants in `src/limits.rs`.
fn limits() -> BTreeSet<String> {
    let text = read("src/limits.rs");
    let names = text.lines().filter_map(|line| line.strip_prefix("pub const ")?.split_once(':'));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// The sources, without comments and the limits themselves.
fn sources(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("src/limits.rs") {
            let text = fs::read_to_string(&path).unwrap();
            all.extend(text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]));
        }
    }
    all
}

#[test]
fn every_limit_has_a_test_that_reaches_it() {
    let limits = limits();
    assert!(limits.len() > 50, "src/limits.rs is read wrongly");
    for limit in &limits {
        let count = REACHED.iter().filter(|(name, ..)| name == limit).count();
        assert_eq!(
            count, 1,
            "limits::{limit} needs a test that reaches it, and one line about that in tests/limits.rs"
        );
    }
    for (limit, file, test) in REACHED {
        assert!(limits.contains(*limit), "tests/limits.rs names {limit}, which is no limit any more");
        let is_test = read(file).lines().any(|line| {
            let line = line.trim_start();
            let line = line.strip_prefix("async ").unwrap_or(line);
            line.strip_prefix("fn ").and_then(|rest| rest.strip_prefix(test)).is_some_and(|rest| rest.starts_with('('))
        });
        assert!(is_test, "limits::{limit} is said to be reached by {test} in {file}, where there is no such test");
    }
}

#[test]
fn every_limit_limits_something() {
    let sources = sources(&here("src"));
    for limit in limits() {
        let used = sources.match_indices(&format!("limits::{limit}")).any(|(at, found)| {
            let after = sources[at + found.len()..].chars().next();
            !after.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
        });
        assert!(used, "nothing uses limits::{limit}: delete it");
    }
}
