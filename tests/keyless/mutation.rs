//! One bit in another place, in everything that was signed, certified or logged, and whatever is cut off.
//!
//! Short fields are changed in every byte; of long ones as many as [`SAMPLE`], at a fixed distance and from a place of its
//! own on in each form. What nobody signed may be changed, and then changes nothing.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{forms, *};

/// Bytes of one field that are changed in one form; longer ones are sampled.
const SAMPLE: usize = 24;

/// A field of a document, in the bytes that it stands for.
struct Target {
    pointer: String,
    encoding: Encoding,
    /// Whether somebody signed every bit of it.
    is_signed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Base64,
    Text,
}

impl Target {
    fn signed(pointer: &str) -> Self {
        Self { pointer: pointer.to_owned(), encoding: Encoding::Base64, is_signed: true }
    }

    fn text(pointer: &str) -> Self {
        Self { encoding: Encoding::Text, ..Self::signed(pointer) }
    }

    fn open(self) -> Self {
        Self { is_signed: false, ..self }
    }

    fn bytes(&self, document: &Value) -> Vec<u8> {
        let text = document.pointer(&self.pointer).and_then(Value::as_str);
        let text = text.unwrap_or_else(|| panic!("no {} in {document}", self.pointer));
        match self.encoding {
            Encoding::Base64 => STANDARD.decode(text).unwrap(),
            Encoding::Text => text.into(),
        }
    }

    /// `document` with other bytes here; none where they are no text.
    fn with(&self, document: &Value, bytes: Vec<u8>) -> Option<Value> {
        let text = match self.encoding {
            Encoding::Base64 => STANDARD.encode(bytes),
            Encoding::Text => String::from_utf8(bytes).ok()?,
        };
        let mut document = document.clone();
        *document.pointer_mut(&self.pointer).unwrap() = json!(text);
        Some(document)
    }

    /// Calls `judge` with each changed document, and where it was changed.
    fn flip(&self, document: &Value, offset: usize, judge: &mut dyn FnMut(&Self, usize, &Value)) {
        let bytes = self.bytes(document);
        let stride = (bytes.len() / SAMPLE).max(1);
        for at in (offset % stride..bytes.len()).step_by(stride) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << ((at + offset) % 8);
            if let Some(changed) = self.with(document, changed) {
                judge(self, at, &changed);
            }
        }
    }
}

/// Everything in a bundle that means something.
fn targets(bundle: &Value) -> Vec<Target> {
    const MATERIAL: &str = "/verificationMaterial";
    let mut all = vec![
        Target::signed("/dsseEnvelope/payload"),
        Target::text("/dsseEnvelope/payloadType"),
        Target::signed("/dsseEnvelope/signatures/0/sig"),
        Target::text("/mediaType").open(),
    ];
    let material = &bundle["verificationMaterial"];
    all.push(Target::signed(&match material.get("certificate") {
        Some(_) => format!("{MATERIAL}/certificate/rawBytes"),
        None => format!("{MATERIAL}/x509CertificateChain/certificates/0/rawBytes"),
    }));
    for (number, entry) in (0..).zip(material["tlogEntries"].as_array().into_iter().flatten()) {
        let at = |field: &str| format!("{MATERIAL}/tlogEntries/{number}/{field}");
        let is_first = entry["kindVersion"] != json!({ "kind": "hashedrekord", "version": "0.0.2" });
        let has_promise = entry.get("inclusionPromise").is_some();
        all.push(Target::signed(&at("canonicalizedBody")));
        // Without a promise nobody signed these, and nobody reads them.
        let promised = |target: Target| if has_promise || !is_first { target } else { target.open() };
        all.push(promised(Target::text(&at("logIndex"))));
        all.push(if has_promise {
            Target::signed(&at("logId/keyId"))
        } else {
            Target::signed(&at("logId/keyId")).open()
        });
        all.extend([Target::text(&at("kindVersion/kind")), Target::text(&at("kindVersion/version"))]);
        if is_first {
            all.push(promised(Target::text(&at("integratedTime"))));
        }
        if has_promise {
            all.push(Target::signed(&at("inclusionPromise/signedEntryTimestamp")));
        }
        let Some(proof) = entry.get("inclusionProof") else { continue };
        all.extend(
            (0..proof["hashes"].as_array().unwrap().len())
                .map(|hash| Target::signed(&at(&format!("inclusionProof/hashes/{hash}")))),
        );
        // Rekor v2 reads size, place and root from the checkpoint and the entry.
        let repeated = |target: Target| if is_first { target } else { target.open() };
        all.push(repeated(Target::signed(&at("inclusionProof/rootHash"))));
        all.push(repeated(Target::text(&at("inclusionProof/logIndex"))));
        all.push(repeated(Target::text(&at("inclusionProof/treeSize"))));
        // The name of who signed it stands outside of what is signed.
        all.push(Target::text(&at("inclusionProof/checkpoint/envelope")).open());
    }
    let stamps = material["timestampVerificationData"]["rfc3161Timestamps"].as_array();
    all.extend((0..stamps.map_or(0, Vec::len)).map(|number| {
        let stamps = "timestampVerificationData/rfc3161Timestamps";
        Target::signed(&format!("{MATERIAL}/{stamps}/{number}/signedTimestamp")).open()
    }));
    all
}

/// What `found` is worth to `policy` for an image, with an admission as [`Ok`].
fn worth(policy: &Policy, found: &Found, image: &Digest) -> Vec<Vouched> {
    let attestors: Vec<&Attestor> = policy.attestors.iter().collect();
    verify(found, image, &attestors, Seen::at_first(instant("2026-11-30T00:00:00Z"))).into_iter().flatten().collect()
}

/// Refuses every change of what is signed; any other is refused, or says what was said before.
fn flips(
    policy: &Policy,
    what: &str,
    offset: usize,
    document: &Value,
    targets: &[Target],
    read: impl Fn(&Value) -> Found,
) {
    let right = worth(policy, &read(document), &image());
    assert_eq!(right.len(), 1, "{what} does not count as it is");
    let mut changes = 0;
    for target in targets {
        target.flip(document, offset, &mut |target, at, changed| {
            let now = worth(policy, &read(changed), &image());
            let same = !target.is_signed && now == right;
            assert!(now.is_empty() || same, "{what}: byte {at} of {} may be changed: {now:?}", target.pointer);
            changes += 1;
        });
    }
    assert!(changes > 100, "{what}: {changes} changes");
}

#[test]
fn no_bit_of_a_bundle_that_somebody_signed_can_be_another() {
    let authority = Authority::new("acme");
    let policy = policy(&authority);
    for (offset, (form, _, signing)) in forms::bundles(&authority, image()).into_iter().enumerate() {
        let bundle = signing.bundle();
        flips(&policy, form, offset, &bundle, &targets(&bundle), |changed| raw_bundle(changed));
    }
}

/// The two things that a timestamp says, in every byte: of what, and when.
#[test]
fn no_bit_of_what_a_timestamp_says_can_be_another() {
    let authority = Authority::new("acme");
    let policy = policy(&authority);
    let bundle = authority.sign2(image()).bundle();
    let pointer = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
    let token = Target::signed(pointer);
    let bytes = token.bytes(&bundle);
    let signature = Target::signed("/dsseEnvelope/signatures/0/sig").bytes(&bundle);
    let find = |part: &[u8]| bytes.windows(part.len()).position(|window| window == part).unwrap();
    for part in [Digest::of(&signature).as_bytes().as_slice(), b"20260301120001Z", b"260301120001Z"] {
        let start = find(part);
        for at in start..start + part.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let changed = token.with(&bundle, changed).unwrap();
            assert_eq!(worth(&policy, &raw_bundle(changed), &image()), [], "byte {at}");
        }
    }
}

/// The older layout as one document: what is signed, and each annotation.
fn as_document(layer: &Layer) -> Value {
    let annotation = |name: &str| layer.annotations.get(&format!("dev.sigstore.cosign/{name}")).cloned();
    let json = |name: &str| annotation(name).map(|text| serde_json::from_str::<Value>(&text).unwrap());
    json!({
        "bytes": STANDARD.encode(&layer.bytes), "signature": layer.annotations["dev.cosignproject.cosign/signature"],
        "certificate": annotation("certificate"), "chain": annotation("chain"), "bundle": json("bundle"),
        "timestamp": json("rfc3161timestamp"),
    })
}

fn as_found(document: &Value) -> Found {
    let text = |name: &str| document[name].as_str().map(str::to_owned);
    let json = |name: &str| Some(document[name].to_string()).filter(|text| text != "null");
    let attached = Attached {
        certificate: text("certificate"),
        chain: text("chain"),
        log_entry: json("bundle"),
        timestamp: json("timestamp"),
    };
    let bytes = STANDARD.decode(document["bytes"].as_str().unwrap()).unwrap();
    piece(match text("signature") {
        Some(signature) if !signature.is_empty() => Material::SimpleSigning { payload: bytes, signature, attached },
        _ => Material::Envelope { json: bytes, attached },
    })
}

#[test]
fn no_bit_of_an_older_layout_that_somebody_signed_can_be_another() {
    let authority = Authority::new("acme");
    let policy = policy(&authority);
    for (offset, (form, kind, layer)) in forms::layers(&authority, image()).into_iter().enumerate() {
        let mut all = vec![
            Target::signed("/bundle/SignedEntryTimestamp"),
            Target::signed("/bundle/Payload/body"),
            Target::text("/bundle/Payload/logID").open(),
            // The lines of PEM, and white space in them, are nobody's.
            Target::text("/certificate").open(),
            Target::text("/chain").open(),
        ];
        match kind {
            "sig" => all.extend([Target::signed("/bytes"), Target::signed("/signature")]),
            // Of an envelope all but its JSON is signed: `keyid` and white space are not.
            _ => all.push(Target::signed("/bytes").open()),
        }
        let document = as_document(&layer);
        if !document["timestamp"].is_null() {
            all.push(Target::signed("/timestamp/SignedRFC3161Timestamp").open());
        }
        flips(&policy, form, offset, &document, &all, as_found);
        for number in ["integratedTime", "logIndex"] {
            let pointer = format!("/bundle/Payload/{number}");
            let right = document.pointer(&pointer).and_then(Value::as_i64).unwrap();
            for wrong in (0..40).map(|bit| right ^ 1 << bit).chain([0, -1, i64::MIN, i64::MAX]) {
                let mut changed = document.clone();
                *changed.pointer_mut(&pointer).unwrap() = json!(wrong);
                assert_eq!(worth(&policy, &as_found(&changed), &image()), [], "{form}: {number} {wrong}");
            }
        }
    }
}

/// Of the text every 56th byte, in another bit and from another place on in each form.
#[test]
fn no_bit_of_the_text_admits_another_image_or_somebody_else() {
    let authority = Authority::new("acme");
    let policy = policy(&authority);
    let other = Digest::of(b"other");
    const STRIDE: usize = 56;
    for (number, (form, _, signing)) in forms::bundles(&authority, image()).into_iter().enumerate() {
        let text = signing.json().into_bytes();
        let right = worth(&policy, &piece(Material::Bundle(text.clone())), &image());
        for at in (number * 5 % STRIDE..text.len()).step_by(STRIDE) {
            let mut changed = text.clone();
            changed[at] ^= 1 << ((at / STRIDE + number) % 8);
            let changed = piece(Material::Bundle(changed));
            let now = worth(&policy, &changed, &image());
            // A timestamp that goes by another name is one that is not there.
            let said = |vouched: &Vouched| (vouched.signer().clone(), *vouched.digest(), vouched.purpose().clone());
            let same = now.iter().map(said).eq(right.iter().map(said));
            assert!(now.is_empty() || same, "{form}: byte {at}: {now:?}");
            assert_eq!(worth(&policy, &changed, &other), [], "{form}: byte {at}");
        }
    }
}

#[test]
fn what_is_cut_off_anywhere_counts_for_nothing() {
    let authority = Authority::new("acme");
    let policy = policy(&authority);
    // Of one form at every length, of the others at every 11th.
    for (number, (form, _, signing)) in forms::bundles(&authority, image()).into_iter().enumerate() {
        let text = signing.json().into_bytes();
        for length in (number..text.len()).step_by(if number == 0 { 1 } else { 11 }) {
            let cut = piece(Material::Bundle(text[..length].to_vec()));
            assert_eq!(worth(&policy, &cut, &image()), [], "{form}: the first {length} bytes");
        }
    }
    for (form, _, layer) in forms::layers(&authority, image()) {
        let document = as_document(&layer);
        for field in ["bytes", "signature", "certificate"] {
            let whole = document[field].as_str().unwrap();
            for length in (0..whole.len()).step_by(if field == "bytes" { 4 } else { 1 }) {
                let mut cut = document.clone();
                cut[field] = json!(whole[..length]);
                let Found { material, .. } = as_found(&cut);
                let now = worth(&policy, &piece(material), &image());
                // The last line break of a certificate is nobody's, and base64 says as much without its padding.
                let is_whole = whole[length..].trim_matches(['\n', '=']).is_empty();
                assert!(now.is_empty() || is_whole, "{form}: {length} bytes of {field}");
            }
        }
    }
}
