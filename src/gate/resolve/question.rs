//! What a verifier passes on: containerd's arguments and descriptor (containerd, `docs/image-verification.md`).

use crate::{
    gate::questions::parts,
    image::{Descriptor, Digest, Reference, Repository, sanitize},
    limits,
    policy::evaluate::Tag,
};

/// Characters of somebody else's words in a message.
const WORD: usize = 60;

/// A question that can be decided about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The name as it was asked for.
    pub(super) name: String,
    /// The repository that containerd will fetch from.
    pub(super) repository: Repository,
    /// The tag that was asked for.
    pub(super) tag: Tag,
    pub(super) digest: Digest,
    pub(super) media_type: String,
}

impl Question {
    /// Reads what a verifier sent: its arguments, and a descriptor on its standard input.
    ///
    /// # Errors
    /// What is wrong with it. Nothing is guessed: arguments that this version does not know could change what is asked.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let (arguments, descriptor) = parts(bytes, limits::QUESTION_BYTES)?;
        let (mut name, mut digest, mut media_type) = (None, None, None);
        for pair in arguments.chunks(2) {
            let flag = pair.first().copied().unwrap_or_default();
            let place = match flag {
                "-name" => &mut name,
                "-digest" => &mut digest,
                "-stdin-media-type" => &mut media_type,
                _ => return Err(format!("containerd asks with an argument that is not known: {}", word(flag))),
            };
            let value = pair.get(1).copied().ok_or_else(|| format!("{flag} has no value"))?;
            if place.replace(value).is_some() {
                return Err(format!("containerd asks with {flag} twice"));
            }
        }
        let missing = |flag: &str| format!("containerd asks without {flag}");
        let name = name.ok_or_else(|| missing("-name"))?;
        let digest = digest.ok_or_else(|| missing("-digest"))?;
        let media_type = media_type.ok_or_else(|| missing("-stdin-media-type"))?;
        if media_type != DESCRIPTOR {
            return Err(format!("containerd sends {}, not a descriptor", word(media_type)));
        }
        let digest: Digest = digest.parse().map_err(|why| format!("{}: {why}", word(digest)))?;
        let reference = Reference::as_fetched(name).map_err(|why| format!("{}: {why}", word(name)))?;
        let descriptor = Descriptor::parse(descriptor).map_err(|why| format!("the descriptor: {why}"))?;
        if descriptor.digest != digest || reference.digest.is_some_and(|named| named != digest) {
            return Err(format!("containerd asks about {digest} and means another digest"));
        }
        let (tag, repository) = (Tag::from(&reference), reference.repository);
        Ok(Self { name: name.to_owned(), repository, tag, digest, media_type: descriptor.media_type })
    }
}

/// What `-stdin-media-type` says.
const DESCRIPTOR: &str = "application/vnd.oci.descriptor.v1+json";

fn word(text: &str) -> String {
    sanitize(text, WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/vnd.oci.image.index.v1+json";

    const VERSION: u8 = 1;

    fn framed(arguments: &[&str], input: &str) -> Vec<u8> {
        crate::gate::questions::framed(arguments, input.as_bytes())
    }

    fn descriptor(digest: &Digest) -> String {
        format!("{{\"mediaType\":\"{TYPE}\",\"digest\":\"{digest}\",\"size\":304}}\n")
    }

    fn asked(name: &str) -> Result<Question, String> {
        let digest = Digest::of(b"x");
        let text = digest.to_string();
        Question::read(&framed(
            &["-name", name, "-digest", &text, "-stdin-media-type", DESCRIPTOR],
            &descriptor(&digest),
        ))
    }

    #[test]
    fn a_question_is_about_the_registry_that_containerd_will_ask() {
        for (name, repository) in [
            ("reg.io/a/b:v1", "reg.io/a/b"),
            ("REG.io:443/a", "reg.io/a"),
            ("reg.io./a", "reg.io/a"),
            ("127.0.0.1:6000/a:v1", "127.0.0.1:6000/a"),
            ("docker.io/library/busybox:1", "docker.io/library/busybox"),
            ("registry-1.docker.io/busybox:1", "docker.io/library/busybox"),
            // containerd asks the host `team`, not Docker Hub.
            ("team/app:1", "team/app"),
        ] {
            let question = asked(name).unwrap();
            assert_eq!(question.repository.to_string(), repository, "{name}");
            assert_eq!((question.name.as_str(), question.media_type.as_str()), (name, TYPE));
        }
        let pinned = format!("reg.io/a:v1@{}", Digest::of(b"x"));
        assert_eq!(asked(&pinned).unwrap().repository.to_string(), "reg.io/a");
        for name in
            ["", "busybox", "good.io@evil.io/x", "reg.io/a?x", "reg.io/a/../b", "reg.io/A", "reg.io/a\n", "x:y@z/a"]
        {
            assert!(asked(name).is_err(), "{name}");
        }
        assert!(asked(&format!("reg.io/a@{}", Digest::of(b"other"))).is_err());
        assert!(asked(&format!("reg.io/{}", "a".repeat(limits::REFERENCE_CHARS))).is_err());
    }

    #[test]
    fn arguments_are_each_there_once_and_no_other_is() {
        let digest = Digest::of(b"x");
        let text = digest.to_string();
        let all = ["-name", "reg.io/a", "-digest", &text, "-stdin-media-type", DESCRIPTOR];
        let read = |arguments: &[&str]| Question::read(&framed(arguments, &descriptor(&digest)));
        assert!(read(&all).is_ok());
        for flag in (0..all.len()).step_by(2) {
            let without = [&all[..flag], &all[flag + 2..]].concat();
            assert!(read(&without).is_err_and(|why| why.contains(all[flag])), "{}", all[flag]);
            let twice = [&all[..], &all[flag..flag + 2]].concat();
            assert!(read(&twice).is_err_and(|why| why.contains("twice")), "{}", all[flag]);
        }
        assert!(read(&all[..5]).is_err());
        assert!(read(&[]).is_err());
        for extra in ["--name", "-namespace", "-\u{202e}\n"] {
            let why = read(&[&all[..], &[extra, "x"]].concat()).unwrap_err();
            assert!(why.contains("not known") && !why.contains('\n') && !why.contains('\u{202e}'), "{why}");
        }
        assert!(read(&["-name", "reg.io/a", "-digest", "sha512:00", "-stdin-media-type", DESCRIPTOR]).is_err());
        assert!(read(&["-name", "reg.io/a", "-digest", &text, "-stdin-media-type", "application/json"]).is_err());
    }

    #[test]
    fn a_descriptor_that_reads_two_ways_or_means_another_digest_is_refused() {
        let digest = Digest::of(b"x");
        let (text, other) = (digest.to_string(), Digest::of(b"other"));
        let read = |input: &str| {
            Question::read(&framed(&["-name", "reg.io/a", "-digest", &text, "-stdin-media-type", DESCRIPTOR], input))
        };
        let good = descriptor(&digest);
        assert!(read(&good).is_ok());
        for input in [
            String::new(),
            "null".to_owned(),
            "[]".to_owned(),
            descriptor(&other),
            format!("{good}{good}"),
            good.replace("{", &format!("{{\"digest\":\"{other}\",")),
            good.replace("{", &format!("{{\"Digest\":\"{other}\",")),
            good.replace("304", "-1"),
            good.replace(TYPE, "x"),
            good.replace("\"mediaType\"", "\"mediatype\""),
            good[..good.len() / 2].to_owned(),
        ] {
            assert!(read(&input).is_err(), "{input}");
        }
    }

    #[test]
    fn a_question_of_any_other_length_is_refused() {
        let digest = Digest::of(b"x").to_string();
        let whole = framed(
            &["-name", "reg.io/a", "-digest", &digest, "-stdin-media-type", DESCRIPTOR],
            &descriptor(&Digest::of(b"x")),
        );
        assert!(Question::read(&whole).is_ok());
        for cut in 0..whole.len() {
            assert!(Question::read(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(Question::read(&[&whole[..], b"x"].concat()).is_err());
        let mut other = whole.clone();
        other[0] = 2;
        assert!(Question::read(&other).is_err_and(|why| why.contains("release")));
        for count in [limits::QUESTION_ARGUMENTS + 1, u32::MAX] {
            assert!(Question::read(&[&[VERSION][..], &count.to_be_bytes(), &whole[5..]].concat()).is_err());
        }
        assert!(Question::read(&[&[VERSION][..], &1u32.to_be_bytes(), &u32::MAX.to_be_bytes()].concat()).is_err());
        assert!(Question::read(&vec![VERSION; usize::try_from(limits::QUESTION_BYTES).unwrap() + 1]).is_err());
    }
}
