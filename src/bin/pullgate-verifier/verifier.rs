//! As containerd's image verifier: the descriptor comes on standard input, the reason goes to standard output.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::unix::{ffi::OsStrExt, process::parent_id},
};

use crate::{
    PATIENCE, PATIENCE_IN_AUDIT, Places,
    answer::{Answer, ask},
    journal,
    question::question,
    within,
};

/// Bytes of the descriptor.
const DESCRIPTOR_BYTES: usize = 64 << 10;

/// Whether the image may be fetched.
pub(crate) fn run(places: &Places, arguments: &[OsString]) -> bool {
    let audits = places.audits();
    let patience = if audits { PATIENCE_IN_AUDIT } else { PATIENCE };
    let socket = places.runtime.join("verify.sock");
    let given: Vec<Vec<u8>> = arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect();
    let asking =
        within(patience, move || question(&given, io::stdin(), DESCRIPTOR_BYTES).and_then(|q| ask(&socket, &q)));
    let answer = asking.unwrap_or_else(|trouble| {
        let about = [("PULLGATE_IMAGE", after(arguments, "-name")), ("PULLGATE_DIGEST", after(arguments, "-digest"))];
        // containerd, which started this, lives on.
        journal::log(places, "resolve", &trouble, audits, parent_id(), &about);
        Answer { allows: audits, line: trouble.line(audits) }
    });
    // A reader that went away does not change the answer.
    let _ = io::stdout().write_all(format!("{}\n", answer.line).as_bytes());
    answer.allows
}

fn after<'a>(arguments: &'a [OsString], flag: &str) -> Option<&'a [u8]> {
    let at = arguments.iter().position(|argument| argument == flag)?;
    Some(arguments.get(at + 1)?.as_bytes())
}
