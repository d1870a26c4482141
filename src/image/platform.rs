//! Platforms, and which children of an index this node could choose.

use super::{Child, Index, scan::Object};

/// A platform as an index or a configuration states it (image-index.md, "platform").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// GOOS, such as `linux`.
    pub os: String,
    /// GOARCH, such as `amd64`.
    pub architecture: String,
}

impl Platform {
    pub(super) fn read(object: &Object<'_>) -> Result<Self, String> {
        object.optional::<String>("variant")?;
        object.optional::<String>("os.version")?;
        object.optional::<Vec<String>>("os.features")?;
        Ok(Self { os: object.required("os")?, architecture: object.required("architecture")? })
    }
}

/// The platform of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePlatform {
    /// GOARCH of the node.
    pub architecture: &'static str,
}

impl NodePlatform {
    /// The platform this binary was built for.
    pub const fn here() -> Self {
        let architecture = match std::env::consts::ARCH.as_bytes() {
            b"x86_64" => "amd64",
            b"aarch64" => "arm64",
            b"x86" => "386",
            _ => std::env::consts::ARCH,
        };
        Self { architecture }
    }

    /// The children of `index` that one of containerd's platform matchers could choose on this node.
    ///
    /// containerd prefers the closest match, but falls back to what the processor also runs: 386 on amd64,
    /// 32-bit arm on arm64, any variant of either; a child that states no platform is chosen by its configuration.
    pub fn choices(self, index: &Index) -> impl Iterator<Item = &Child> {
        index.children.iter().filter(move |child| match &child.platform {
            None => true,
            Some(platform) => platform.os == "linux" && self.runs(&platform.architecture),
        })
    }

    fn runs(self, architecture: &str) -> bool {
        architecture == self.architecture
            || matches!(
                (self.architecture, architecture),
                ("amd64", "386" | "x86_64" | "x86-64" | "i386") | ("arm64", "arm" | "aarch64" | "armhf" | "armel")
            )
    }
}
