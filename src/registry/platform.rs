//! Which manifest of an index is for a platform.

use solver::graph::Platform;

use crate::image::{Descriptor, Index};

/// What runs on `wanted`, best first: a processor also runs what was built for its elder siblings.
///
/// The order is that of <https://github.com/containerd/platforms/blob/v1.0.0/compare.go>.
fn acceptable(wanted: &Platform) -> Vec<(String, String)> {
    let wanted = wanted.clone().normalized();
    let of = |architecture: &str, variant: String| (architecture.to_owned(), variant);
    let arm = |from: u32| (5..=from).rev().map(move |version| of("arm", format!("v{version}")));
    let mut all = vec![(wanted.architecture.clone(), wanted.variant.clone())];
    let version = wanted.variant.trim_start_matches('v').parse::<u32>().unwrap_or_default();
    match wanted.architecture.as_str() {
        "amd64" => {
            all.extend((2..version.min(9)).rev().map(|version| of("amd64", format!("v{version}"))));
            all.push(of("amd64", String::new()));
            all.push(of("386", String::new()));
        }
        "arm64" => {
            all.extend((9..version.min(20)).rev().map(|version| of("arm64", format!("v{version}"))));
            all.push(of("arm64", String::new()));
            all.extend(arm(8));
        }
        "arm" => all.extend(arm(version.min(8))),
        _ => {}
    }
    all.dedup();
    all
}

/// The entry of an index that suits a platform best: the first of those whose processor is preferred.
///
/// Entries that name no platform come last: other builders write such indexes for a single image.
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    let acceptable = acceptable(wanted);
    let rank = |entry: &Descriptor| {
        let Some(platform) = &entry.platform else { return Some(acceptable.len()) };
        let platform = platform.clone().normalized();
        if platform.os != wanted.os.to_ascii_lowercase() {
            return None;
        }
        acceptable
            .iter()
            .position(|(architecture, variant)| *architecture == platform.architecture && *variant == platform.variant)
    };
    let ranked = index.manifests.iter().filter_map(|entry| Some((rank(entry)?, entry)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry)
}

/// The platforms of an index, for people. Attestations are for none.
pub fn offered(index: &Index) -> String {
    let platforms = index.manifests.iter().filter_map(|entry| entry.platform.as_ref());
    let names: Vec<String> =
        platforms.filter(|platform| platform.os != "unknown").map(ToString::to_string).take(40).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: next(), ..Platform::default() }
    }

    fn chosen(entries: &[&str], wanted: &str) -> Option<usize> {
        let descriptor = |(at, text): (usize, &&str)| {
            let descriptor = Descriptor::new("m", Digest::of(&[at as u8]), 1);
            if text.is_empty() {
                descriptor
            } else {
                descriptor.on(platform(text))
            }
        };
        let manifests: Vec<Descriptor> = entries.iter().enumerate().map(descriptor).collect();
        let index = Index {
            schema_version: 2,
            media_type: String::new(),
            artifact_type: None,
            manifests: manifests.clone(),
            subject: None,
            annotations: Default::default(),
        };
        let chosen = choose(&index, &platform(wanted))?;
        manifests.iter().position(|entry| entry.digest == chosen.digest)
    }

    #[test]
    fn the_nearest_platform_is_taken() {
        for (entries, wanted, want) in [
            (&["linux/arm64", "linux/amd64"][..], "linux/amd64", Some(1)),
            (&["linux/amd64", "linux/amd64/v2", "linux/amd64/v3"], "linux/amd64/v2", Some(1)),
            (&["linux/amd64", "linux/amd64/v3"], "linux/amd64/v2", Some(0)),
            (&["linux/amd64/v2"], "linux/amd64", None),
            (&["linux/x86_64"], "linux/amd64", Some(0)),
            (&["linux/386"], "linux/amd64", Some(0)),
            (&["linux/386", "linux/amd64"], "linux/amd64", Some(1)),
            (&["linux/arm/v5", "linux/arm/v6", "linux/arm64/v8"], "linux/arm/v7", Some(1)),
            (&["linux/arm/v7", "linux/arm/v6"], "linux/arm/v6", Some(1)),
            (&["linux/arm/v7"], "linux/arm/v6", None),
            (&["linux/arm/v7", "linux/arm64/v8"], "linux/arm64", Some(1)),
            (&["linux/arm", "linux/s390x"], "linux/arm64", Some(0)),
            (&["windows/amd64", "darwin/amd64"], "linux/amd64", None),
            (&["unknown/unknown", "linux/amd64"], "linux/amd64", Some(1)),
            (&["unknown/unknown"], "linux/amd64", None),
            (&["", "linux/amd64"], "linux/amd64", Some(1)),
            (&["linux/arm64", ""], "linux/amd64", Some(1)),
            (&["linux/riscv64"], "linux/riscv64", Some(0)),
            (&[], "linux/amd64", None),
        ] {
            assert_eq!(chosen(entries, wanted), want, "{entries:?} for {wanted}");
        }
    }
}
