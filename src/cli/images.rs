//! Commands about the images in the store: images, inspect, tag, rmi.

use snapshotter::store::tags::TagEntry;
use snapshotter::Store;

use super::args::{Format, Images};
use super::failure::Failure;
use super::name::{familiar, of_new_image};
use crate::engine::images;
use crate::image::inspect::{inspect as describe, Facts};

/// `rbuild images`
pub(super) fn list(store: &Store, args: &Images) -> Result<u8, Failure> {
    let tags = store.tags()?;
    let mut entries: Vec<&TagEntry> = tags.iter().flat_map(TagEntry::platforms).collect();
    entries.sort_by(|a, b| (b.created, &a.name).cmp(&(a.created, &b.name)));
    if args.quiet {
        let mut seen = Vec::new();
        for entry in &entries {
            if !seen.contains(&entry.image) {
                say!("{}", entry.image);
                seen.push(entry.image);
            }
        }
        return Ok(0);
    }
    let rows: Vec<Row> = entries.iter().map(|entry| Row::of(store, entry)).collect::<Result<_, _>>()?;
    match args.format {
        Format::Json => {
            for row in &rows {
                say!("{}", row.json());
            }
        }
        Format::Table => table(&rows)?,
    }
    Ok(0)
}

struct Row {
    repository: String,
    tag: String,
    id: String,
    created: i64,
    size: u64,
}

impl Row {
    fn of(store: &Store, entry: &TagEntry) -> Result<Row, Failure> {
        let name = entry.name.as_deref().map(familiar);
        let (repository, tag) = name.and_then(|n| n.rsplit_once(':')).unwrap_or(("<none>", "<none>"));
        Ok(Row {
            repository: repository.to_string(),
            tag: tag.to_string(),
            id: entry.image.hex(),
            created: entry.created,
            size: size(store, entry)?,
        })
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "Repository": self.repository,
            "Tag": self.tag,
            "ID": format!("sha256:{}", self.id),
            "CreatedAt": crate::rfc3339::Time::from_seconds(self.created).to_string(),
            "Size": self.size,
        })
    }
}

/// Bytes in the files of all layers.
fn size(store: &Store, entry: &TagEntry) -> Result<u64, Failure> {
    match entry.layers.last().and_then(|layer| layer.snapshot) {
        Some(top) => Ok(store.chain(&top)?.iter().map(|snapshot| snapshot.size).sum()),
        None => Ok(0),
    }
}

fn table(rows: &[Row]) -> Result<(), Failure> {
    let width = |head: &str, column: fn(&Row) -> &str| {
        rows.iter().map(|row| column(row).chars().count()).chain([head.len()]).max().unwrap_or_default()
    };
    let (a, b) = (width("REPOSITORY", |row| &row.repository), width("TAG", |row| &row.tag));
    say!("{:a$}   {:b$}   {:12}   {:16}   SIZE", "REPOSITORY", "TAG", "IMAGE ID", "CREATED");
    for row in rows {
        let created = crate::rfc3339::Time::from_seconds(row.created).to_string();
        let created = created.get(..16).unwrap_or(&created).replace('T', " ");
        say!("{:a$}   {:b$}   {}   {:16}   {}", row.repository, row.tag, &row.id[..12], created, bytes(row.size));
    }
    Ok(())
}

/// A size as people read it: decimal units, three digits.
pub(super) fn bytes(size: u64) -> String {
    let (mut value, mut unit) = (size as f64, "B");
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    match unit {
        "B" => format!("{size}B"),
        _ if value < 10.0 => format!("{value:.2}{unit}"),
        _ if value < 100.0 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

/// `rbuild inspect`
pub(super) fn inspect(store: &Store, names: &[String]) -> Result<u8, Failure> {
    let mut shown = Vec::new();
    let tags = store.tags()?;
    for name in names {
        let image = images::find(store, name)?;
        let same = tags.iter().flat_map(TagEntry::platforms).filter(|entry| entry.image == image.id());
        let facts = Facts {
            id: image.id(),
            tags: same.filter_map(|entry| entry.name.as_deref()).map(|n| familiar(n).to_string()).collect(),
            digests: Vec::new(),
            size: size(store, &image.entry)?,
        };
        shown.push(describe(&image.config, &facts));
    }
    say!("{}", serde_json::to_string_pretty(&shown)?);
    Ok(0)
}

/// `rbuild tag`
pub(super) fn tag(store: &Store, source: &str, target: &str) -> Result<u8, Failure> {
    let target = of_new_image(target)?;
    // By name all its platforms get the other one too.
    let named = frontend::normalise_reference(source).ok().map(|name| store.get_tag(&name)).transpose()?.flatten();
    let entry = named.map_or_else(|| images::find(store, source).map(|image| image.entry), Ok)?;
    store.set_tag(&target, &entry)?;
    Ok(0)
}

/// `rbuild rmi`
pub(super) fn remove(store: &Store, names: &[String]) -> Result<u8, Failure> {
    for name in names {
        let image = images::find(store, name)?;
        let normalised = frontend::normalise_reference(name).unwrap_or_default();
        if image.entry.name.as_deref() == Some(&normalised) {
            store.remove_tag(&normalised)?;
            say!("Untagged: {}", familiar(&normalised));
            continue;
        }
        // By id: all its names go.
        let is_it = |entry: &&TagEntry| entry.platforms().any(|entry| entry.image == image.id());
        for entry in store.tags()?.iter().filter(is_it) {
            match &entry.name {
                Some(name) if entry.variants.is_empty() => {
                    store.remove_tag(name)?;
                    say!("Untagged: {}", familiar(name));
                }
                // Its images for other platforms keep the name.
                Some(name) => {
                    store.change_tag(name, |entry| entry?.without(&image.id()))?;
                    say!("Untagged: {}", familiar(name));
                }
                None => {
                    store.remove_kept_image(&entry.image)?;
                }
            }
        }
        say!("Deleted: {}", image.id());
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_have_three_digits() {
        for (size, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (12_345, "12.3kB"),
            (123_456_789, "123MB"),
            (5_000_000_000, "5.00GB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }
}
