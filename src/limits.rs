//! Every bound that pullgate puts on its inputs, in one place.
//!
//! A request that meets a bound is never admitted by it: what lies beyond is "could not tell"
//! (a registry that is too large or too slow) or a refusal (an image that no node should run).

use std::time::Duration;

/// Bytes of an index, manifest or image configuration. Registries commonly refuse more than 4 MiB.
pub const MANIFEST_BYTES: u64 = 4 << 20;
/// Bytes of one piece of evidence: a signed payload, a bundle, an envelope.
pub const EVIDENCE_BYTES: u64 = 4 << 20;
/// Bytes of a token answer of a registry's token service.
pub const TOKEN_BYTES: u64 = 64 << 10;
/// Bytes of one page of the referrers API.
pub const REFERRERS_PAGE_BYTES: u64 = 4 << 20;
/// Pages of the referrers API that are read for one digest.
pub const REFERRERS_PAGES: usize = 16;
/// Descriptors in a referrers list that are looked at for one digest.
pub const REFERRERS: usize = 1024;
/// Signatures, bundles and envelopes that are verified for one digest.
pub const EVIDENCE_ITEMS: usize = 1024;
/// Entries of transparency logs, and timestamps, in one sigstore bundle.
pub const BUNDLE_LOG_ENTRIES: usize = 8;
/// See [`BUNDLE_LOG_ENTRIES`].
pub const BUNDLE_TIMESTAMPS: usize = 8;
/// Certificates beside one signature, the signer's included. A few more, each of which could have issued every other, can be
/// put in a row in hundreds of thousands of ways.
pub const BUNDLE_CERTIFICATES: usize = 6;
/// Bytes of one certificate beside a signature. Who reads it puts its sets in order, in time that grows with the square of it.
pub const SIGNER_CERTIFICATE_BYTES: usize = 8 << 10;
/// Bytes of one timestamp of an authority; see [`SIGNER_CERTIFICATE_BYTES`].
pub const TIMESTAMP_BYTES: usize = 16 << 10;
/// Bytes of what a log says of one entry, the signer's certificate included; see [`SIGNER_CERTIFICATE_BYTES`].
pub const LOG_ENTRY_BYTES: usize = 64 << 10;
/// Hashes in the proof that a log has an entry: as many as a log with 2^64 entries needs.
pub const BUNDLE_PROOF_HASHES: usize = 64;
/// Signatures of one checkpoint of a log, those of its witnesses included. Each may have to be tried.
pub const CHECKPOINT_SIGNATURES: usize = 16;
/// Bytes of evidence that are read for one digest, all pieces together.
pub const EVIDENCE_TOTAL_BYTES: u64 = 32 << 20;
/// Bytes of evidence that are held for all digests together, as long as each is looked at. Names that are only claimed
/// have as much of their own.
pub const EVIDENCE_HELD_BYTES: u64 = 48 << 20;
/// Manifests and indexes of a layout that are looked into for one digest.
pub const LAYOUT_DOCUMENTS: usize = 4096;
/// Indexes within each other that are looked into, the layout's own not counted.
pub const LAYOUT_DEPTH: usize = 3;
/// Names in a directory of evidence that are looked at.
pub const DIRECTORY_NAMES: usize = 65_536;
/// Bytes of memory that the values in one piece of evidence, or in a list of evidence, may take once they are read; estimated
/// before they are. A thread reads one at a time.
pub const STRUCTURE_BYTES: usize = 48 << 20;
/// Time for what each source on this node itself has for one digest: a directory, the content store.
pub const EVIDENCE_ON_NODE: Duration = Duration::from_secs(2);
/// Searches on this node's disk at the same time, and in its content store. One that hangs keeps its turn.
pub const PARALLEL_SEARCHES: usize = 4;
/// Namespaces of containerd that are looked into for the evidence of one digest.
pub const EVIDENCE_NAMESPACES: usize = 32;
/// Time for which an inventory of a namespace is used again for the evidence of what is in it.
pub const INVENTORY_LIFE: Duration = Duration::from_secs(1);
/// Names of registries that are looked up at the same time, for each way in which they may be reached. A look-up takes a
/// thread until it ends, also when nobody waits for it any more.
pub const PARALLEL_LOOKUPS: usize = 8;
/// Requests in flight to registries for one digest.
pub const PARALLEL_FETCHES: usize = 8;
/// Redirects followed for one blob.
pub const REDIRECTS: usize = 3;
/// Attempts for one registry request, the first included. Only failures that can pass are tried again.
pub const REGISTRY_TRIES: usize = 2;
/// Time for a registry to accept a connection.
pub const REGISTRY_CONNECT: Duration = Duration::from_secs(3);
/// Time for one registry request, from the first byte sent to the last byte read.
pub const REGISTRY_REQUEST: Duration = Duration::from_secs(5);
/// Time for all that is asked about one digest.
pub const EVIDENCE_DEADLINE: Duration = Duration::from_secs(8);
/// Pause before the next layout is asked while the preferred one has not answered.
pub const LAYOUT_HEDGE: Duration = Duration::from_millis(40);
/// Pause before the next layout is asked while the preferred one has evidence and still delivers it.
pub const LAYOUT_PATIENCE: Duration = Duration::from_millis(250);
/// Pause before the next layout is asked when the one before has delivered all it has: time to verify
/// that, and to end the search if it suffices.
pub const LAYOUT_GRACE: Duration = Duration::from_millis(5);
/// Longest `Retry-After` of a registry that is waited for within a request.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest `Retry-After` of a registry that is believed: so long nobody asks it again.
pub const BACK_OFF: Duration = Duration::from_secs(300);
/// Hosts that are asked before a registry itself.
pub const MIRRORS: usize = 4;
/// Pause before the next host of a registry is asked while the one before has not answered.
pub const MIRROR_HEDGE: Duration = Duration::from_secs(1);
/// Time for one host that is asked before the registry itself.
pub const MIRROR_PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of a `hosts.toml`.
pub const HOSTS_FILE_BYTES: u64 = 256 << 10;
/// Bytes of a file with certificates or a key.
pub const CERTIFICATE_BYTES: u64 = 1 << 20;
/// Files with certificate authorities of one host.
pub const HOST_AUTHORITIES: usize = 16;
/// Sets of certificates, each with connections of its own.
pub const TLS_CLIENTS: usize = 64;
/// Decisions that ask one registry at the same time; names that are only claimed count as one.
pub const PARALLEL_OF_REGISTRY: usize = 16;
/// Bytes of a file with credentials, or with the configuration of credential providers.
pub const CREDENTIALS_FILE_BYTES: u64 = 1 << 20;
/// Time for a credential helper or provider to answer.
pub const HELPER: Duration = Duration::from_secs(5);
/// Bytes that it may print.
pub const HELPER_BYTES: u64 = 256 << 10;
/// Characters of its name.
pub const HELPER_CHARS: usize = 64;
/// Runs of one helper or provider at the same time.
pub const PARALLEL_HELPERS: usize = 2;
/// Time for which a provider that failed is not run again for the same image.
pub const HELPER_FAILED: Duration = Duration::from_secs(10);
/// Answers of providers held in memory.
pub const CREDENTIALS: usize = 1024;
/// Longest time for which an answer of a provider is kept.
pub const CREDENTIAL_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Time before its end from which it is asked again, or a tenth of its life where that is less.
pub const CREDENTIAL_SLACK: Duration = Duration::from_secs(60);
/// Time for which a credential that was refused is not shown again.
pub const CREDENTIAL_REFUSED: Duration = Duration::from_secs(30);
/// Images of which it is remembered that their registry wants credentials.
pub const PRIVATE_IMAGES: usize = 4096;
/// For how long that is remembered after the last request, and looked for in the audit.
pub const PRIVATE_MEMORY: Duration = Duration::from_secs(24 * 3600);
/// Requests of which a person is told.
pub const REQUESTS_TOLD: usize = 256;
/// Characters of one of them.
pub const REQUEST_CHARS: usize = 160;
/// Pause before a registry that failed is asked again.
pub const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of one piece of evidence up to which it is read before the larger ones: a few large pieces
/// that anybody may push must not use up what may be read before the small good one is reached.
pub const SMALL_EVIDENCE_BYTES: u64 = 256 << 10;
/// Characters of the cause that is kept of a question which could not be answered.
pub const GAP_CHARS: usize = 160;
/// Pieces of evidence and gaps that were read and wait to be verified, for one digest.
pub const EVIDENCE_WAITING: usize = 8;
/// Life of a registry's token that states none, or less.
pub const TOKEN_LIFE_LEAST: Duration = Duration::from_secs(60);
/// Longest life of a registry's token that is believed.
pub const TOKEN_LIFE_MOST: Duration = Duration::from_secs(3600);
/// Time before a token's end from which it is not used any more.
pub const TOKEN_SLACK: Duration = Duration::from_secs(10);
/// Characters of an authentication challenge.
pub const CHALLENGE_CHARS: usize = 4096;
/// Tokens held in memory, one for each repository.
pub const TOKENS: u64 = 1024;
/// Registries whose layout is remembered.
pub const REGISTRY_HABITS: usize = 1024;
/// Time for which a registry is believed to have no referrers API, hence the fallback tag is asked first.
pub const REFERRERS_API_MEMORY: Duration = Duration::from_secs(600);
/// Time an idle connection to a registry is kept.
pub const REGISTRY_IDLE: Duration = Duration::from_secs(30);

/// Layers in a manifest.
pub const LAYERS: usize = 512;
/// Children of an index.
pub const INDEX_CHILDREN: usize = 1024;
/// Characters of a registry host, a repository path and a tag (distribution specification).
pub const REFERENCE_CHARS: usize = 512;
/// Manifests in the content store that are looked at for one layer: a layer without files is in most of them.
pub const CANDIDATE_MANIFESTS: usize = 4096;
/// Indexes in the content store that are looked at for one manifest.
pub const PARENT_INDEXES: usize = 1024;
/// Manifests, indexes and configurations of one namespace that are looked at to judge what is in it.
pub const NODE_DOCUMENTS: usize = 16_384;
/// What all of them together may list, layers apart.
pub const NODE_LINKS: usize = 131_072;
/// Containers of one namespace that are looked at in a walk.
pub const NODE_CONTAINERS: usize = 4096;
/// Names (repositories) that are looked at for one manifest or index.
pub const NAMES: usize = 64;

/// Pairs of digest and name that are judged for one request: those first for which the policy has a rule.
pub const SUBJECTS: usize = 64;
/// Pairs that are judged at the same time for one request, so that none takes the turns of all others.
pub const PARALLEL_SUBJECTS: usize = 8;

/// Time for one decision, delegation and layer hashing not included.
pub const DECISION_DEADLINE: Duration = Duration::from_secs(20);
/// Time for a decision of the resolve gate. The verifier waits a second longer, containerd three.
pub const RESOLVE_DEADLINE: Duration = Duration::from_secs(7);
/// Time for a verifier to send its question, and to take the answer.
pub const VERIFIER_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of a verifier's question: arguments and descriptor, 64 KiB each, and their lengths.
pub const QUESTION_BYTES: u64 = 130 << 10;
/// Arguments of a verifier.
pub const QUESTION_ARGUMENTS: u32 = 64;
/// Verifiers that are answered at the same time; others wait in the socket's queue.
pub const PARALLEL_QUESTIONS: usize = 256;
/// Time for a decision of the start gate, which asks nobody but this node. The hook waits longer.
pub const START_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes of a hook's question: the container's state with its annotations, 512 KiB, and what names it.
pub const START_QUESTION_BYTES: u64 = 513 << 10;
/// Hooks that are answered at the same time; others wait in the socket's queue.
pub const PARALLEL_STARTS: usize = 64;
/// Image configurations of which it is remembered which manifests have them.
pub const CONFIGURATIONS: u64 = 4096;
/// Pods of which it is remembered how they are called.
pub const PODS: u64 = 4096;
/// Images that are verified at the same time because a container of them was refused for want of a decision.
pub const PARALLEL_BEHIND: usize = 4;
/// Images that wait for that; of more, the next try takes its turn.
pub const BEHIND: usize = 256;
/// Children of one unsigned index that this node could choose.
pub const INDEX_CHOICES: usize = 16;
/// Time for one call to containerd within a decision, and for each piece of a stream.
pub const CONTAINERD_CALL: Duration = Duration::from_secs(5);
/// Bytes of containerd's record of one container. containerd itself sends no longer message.
pub const RECORD_BYTES: usize = 16 << 20;
/// Mounts, and hooks, of one container.
pub const CONTAINER_PARTS: usize = 1024;
/// Pause before the next connection is accepted when one could not be.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Decisions that gather evidence at the same time.
pub const PARALLEL_DECISIONS: usize = 64;
/// Layers that are hashed at the same time: one for each core leaves containerd's unpacking its share.
pub const PARALLEL_HASHES: usize = 2;
/// Time an audit-mode request waits for evidence.
pub const AUDIT_MODE_WAIT: Duration = Duration::from_secs(1);

/// Images whose evidence is kept on disk; beyond that a tenth goes, the least recently used first.
pub const KEPT_IMAGES: usize = 10_000;
/// Bytes of evidence that are kept on disk for all images.
pub const KEPT_BYTES: u64 = 256 << 20;
/// Bytes of evidence that are kept on disk for one image.
pub const KEPT_IMAGE_BYTES: u64 = 1 << 20;
/// Pieces of evidence, and indexes, that are kept on disk for one image.
pub const KEPT_PIECES: usize = 16;
/// Additions to the kept evidence that wait for the disk; more are lost, and asked for again.
pub const KEPT_WAITING: usize = 256;
/// Time for the files to be read again and to take force; less than systemd gives to a reload.
pub const RELOAD: Duration = Duration::from_secs(20);
/// Time for judging what is on the node before a new policy takes force.
pub const WALK: Duration = Duration::from_secs(3);

/// Time for a walk in the background.
pub const WALK_LONGEST: Duration = Duration::from_secs(60);
/// Pause before a walk that failed is tried again; it doubles up to the time between two walks.
pub const WALK_RETRY: Duration = Duration::from_secs(10);
/// What containerd told and was not looked at yet; more leads to a walk.
pub const TOLD_WAITING: usize = 1024;
/// Pause before what was told is looked at, so that the several records of one image are looked at together.
pub const TOLD_PAUSE: Duration = Duration::from_millis(200);
/// Images and containers that are remembered as told, each; what does not fit is told no more than once in a walk.
pub const WATCHED: usize = 16_384;
/// Images that are verified in the background at the same time.
pub const PARALLEL_VERIFICATIONS: usize = 2;
/// Pause before an image that could not be told about is verified in the background again; it doubles up to
/// [`VERIFY_AGAIN_MOST`].
pub const VERIFY_AGAIN: Duration = Duration::from_secs(600);
/// See [`VERIFY_AGAIN`].
pub const VERIFY_AGAIN_MOST: Duration = Duration::from_secs(24 * 3600);
/// Pause of all verification in the background when a registry limits the rate of requests.
pub const VERIFY_PAUSE: Duration = Duration::from_secs(60);
/// Time for one self-test of the gates.
pub const SELF_TEST: Duration = Duration::from_secs(120);
/// Askers that wait for one self-test; more are turned away.
pub const SELF_TEST_ASKERS: usize = 16;

/// Decisions held in memory.
pub const DECISIONS: u64 = 10_000;
/// Bytes of what one decision keeps to explain itself, structures included.
pub const GROUNDS_BYTES: usize = 3 << 10;
/// Characters of one text in it: an attestor, a purpose, what is wrong with a piece of evidence.
pub const GROUNDS_CHARS: usize = 160;
/// Kinds of evidence that does not count which one decision tells apart.
pub const UNCOUNTED_KINDS: usize = 8;
/// Names that a message enumerates.
pub const NAMES_TOLD: usize = 4;
/// Characters of what a violation found, and of what makes it pass, where it is kept.
pub const VIOLATION_CHARS: usize = 320;
/// Snapshots that containerd told about and that were not asked about yet; older ones are looked for among all.
pub const EXTRACTS_TOLD: usize = 256;
/// Pause before containerd's events are listened to again when that ended.
pub const EVENTS_PAUSE: Duration = Duration::from_millis(250);
/// Layers that pass because the decision about their image was made and recorded.
pub const PASSES: u64 = 100_000;
/// How long they pass without another decision. A pull that takes longer is decided again.
pub const PASS_LIFE: Duration = Duration::from_secs(60);
/// Longest life of a denial for absent evidence.
pub const ABSENT_LIFE: Duration = Duration::from_secs(60);
/// Longest life of an allow before its evidence is looked at again.
pub const RECHECK_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Passes of break-glass at the same time.
pub const BREAK_GLASS: usize = 16;
/// Characters of the reason for one.
pub const BREAK_GLASS_REASON: usize = 200;
/// Bytes of a question about them.
pub const BREAK_GLASS_QUESTION: u64 = 8 << 10;
/// Bytes of the file that keeps them.
pub const BREAK_GLASS_BYTES: u64 = 64 << 10;
/// Time between two notes of how far they have come. A crash forgets what passed since.
pub const BREAK_GLASS_NOTED: Duration = Duration::from_secs(60);

/// Time between two notes of the newest time that was seen.
pub const CLOCK_KEPT: Duration = Duration::from_secs(60);
/// How far the system clock may be behind the newest time before it is said.
pub const CLOCK_BEHIND: Duration = Duration::from_secs(300);

/// Bytes of a policy document or of the node's configuration.
pub const DOCUMENT_BYTES: u64 = 16 << 20;
/// Mistakes in a document that a person is told at once.
pub const PROBLEMS: usize = 50;
/// Characters of what is said about one mistake.
pub const PROBLEM_CHARS: usize = 400;
/// Characters of what stands in a document that a mistake is told with.
pub const QUOTED_CHARS: usize = 80;
/// Words among which the one is looked for that was probably meant.
pub const WORDS_COMPARED: usize = 1000;
/// Sets of labels by which rules about the same images in one namespace may be told apart.
pub const LABEL_SETS: usize = 64;
/// Requirements within each other.
pub const REQUIREMENT_DEPTH: usize = 4;
/// Attestors that one requirement names.
pub const REQUIREMENT_ATTESTORS: usize = 256;
/// Ways to meet one requirement, groups told apart and attestors not.
pub const REQUIREMENT_WAYS: usize = 256;
/// Characters of whom a rule says to ask.
pub const CONTACT_CHARS: usize = 64;
/// Characters of what a rule's author tells who meets a refusal.
pub const RULE_MESSAGE_CHARS: usize = 160;
/// Characters of it, or of what makes it pass, that have room in the line of a refusal.
pub const ADVICE_CHARS: usize = 72;
/// Bytes of a public key file.
pub const KEY_FILE_BYTES: u64 = 64 << 10;
/// Authorities of one kind in a trust root.
pub const TRUST_ROOT_AUTHORITIES: usize = 32;
/// Certificates in a file of an authority's.
pub const AUTHORITY_CERTIFICATES: usize = 32;
/// Characters of a pattern for identities.
pub const PATTERN_CHARS: usize = 512;
/// Bytes of a pattern for identities once it is compiled.
pub const PATTERN_BYTES: usize = 1 << 20;
/// Bytes of one file of the boot list.
pub const BOOT_FILE_BYTES: u64 = 1 << 20;
/// Digests in the boot list.
pub const BOOT_DIGESTS: usize = 4096;
/// Images that are proposed for the boot list, of each origin: static pods, and what runs in kube-system.
pub const ESSENTIAL_IMAGES: usize = 256;
/// Bytes of a Kubernetes service account token.
pub const SERVICE_ACCOUNT_TOKEN_BYTES: u64 = 16 << 10;
/// Keys with which an issuer of such tokens signs.
pub const SERVICE_ACCOUNT_KEYS: usize = 64;
/// Bytes of one manifest of a static pod, or of the kubelet's configuration.
pub const POD_BYTES: u64 = 1 << 20;
/// Files in the directory of static pods.
pub const POD_FILES: usize = 256;
/// Bytes of containerd's configuration as containerd itself prints it.
pub const CONTAINERD_CONFIG_BYTES: u64 = 1 << 20;
/// Time to find out which sandbox image containerd is configured with, and whether it is in the boot list.
pub const SANDBOX_LOOK: Duration = Duration::from_secs(1);
/// Pause before that is tried again when it could not be told.
pub const SANDBOX_PAUSE: Duration = Duration::from_secs(10);

/// Time for a program that is asked something: containerd about its configuration, systemctl about a unit.
pub const PROGRAM: Duration = Duration::from_secs(20);
/// Time for systemd to restart containerd, whose own limits end earlier.
pub const RESTART: Duration = Duration::from_secs(180);

/// Bytes of one field of an audit entry; longer values are clipped.
pub const AUDIT_FIELD_BYTES: usize = 32 << 10;
/// Values of one repeated field of an audit entry (codes, attestors, reasons).
pub const AUDIT_VALUES: usize = 32;
/// Characters of a name or rule within the line that an audit entry shows.
pub const AUDIT_WORD_CHARS: usize = 256;
/// Bytes of the complaints of a child process that are read.
pub const COMPLAINT_BYTES: u64 = 4 << 10;
/// Characters of one value that a command shows.
pub const SHOWN_CHARS: usize = 1000;
/// Entries that `pullgate audit` holds at a time to turn their order.
pub const ENTRIES_HELD: i64 = 10_000;
/// Values of one kind that a summary tells apart, and rows of it that a person is shown.
pub const SUMMARY_VALUES: usize = 10_000;
/// See [`SUMMARY_VALUES`].
pub const SUMMARY_ROWS: usize = 20;
/// Places where the chain of entries does not hold which a person is shown.
pub const BREAKS_TOLD: usize = 50;
/// Bytes of one entry that is read back from the journal.
pub const JOURNAL_ENTRY_BYTES: usize = 16 << 20;
/// Numbers that the audit takes from the disk at a time. A crash skips what is left of them.
pub const AUDIT_NUMBERS: u64 = 4096;
/// Time the audit writer waits for journald's socket to take an entry, waiting for its turn included.
pub const AUDIT_WAIT: Duration = Duration::from_millis(250);
/// Pause before journald's socket is looked for again while it is gone.
pub const AUDIT_PAUSE: Duration = Duration::from_millis(5);
/// Lines of the operational log that wait for journald; more are dropped and counted.
pub const LOG_QUEUE: usize = 4096;
/// Bytes of one line of the operational log.
pub const LOG_LINE_BYTES: usize = 8 << 10;
/// Time a stopping daemon waits for the lines that are still queued.
pub const LOG_FLUSH: Duration = Duration::from_secs(1);
/// Characters of the one-line message that a person sees.
pub const MESSAGE_CHARS: usize = 200;
/// Containers of one namespace whose mounts `pullgate doctor` looks at. A node has a hundred.
pub const DOCTOR_CONTAINERS: usize = 10_000;
