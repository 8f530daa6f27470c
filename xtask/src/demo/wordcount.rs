//! The commonest identifiers in the Rust sources of all crates that this project is built from.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::terminal::{bar, thousands};
use super::{Demo, Job, seconds};
use crate::process::output;

/// Enough to keep many cores busy to the end, few enough that each result is a real summary.
const TASKS: usize = 64;
const SHOWN: usize = 20;

type Counts = HashMap<String, u64>;

pub(crate) fn show(demo: &Demo<'_>) -> Result<()> {
    let folder = demo.folder().join("sources");
    let files = gather(demo, &folder)?;
    let bytes: u64 = files.iter().map(|(_, size)| size).sum();
    println!("   {} files, {} MB\n", thousands(files.len() as u64), bytes / 1_000_000);

    let arguments = shares(&files).into_iter().map(|files| json!(files)).collect::<Vec<Value>>();
    let job = Job::arguments(demo, "wordcount", "identifiers", &arguments.into())?.input("sources", folder.clone());
    let parts: Vec<Counts> =
        serde_json::from_slice(&demo.submit(&job)?).context("the results are not maps from words to counts")?;
    let mut counts = Counts::new();
    for (word, count) in parts.into_iter().flatten() {
        *counts.entry(word).or_default() += count;
    }

    let start = Instant::now();
    let expected = count(&folder, &files)?;
    let took = seconds(start.elapsed());
    print(&counts);
    ensure!(counts == expected, "a plain count of the same files gives something else");
    println!(
        "\n   {} different words, each as often as a plain sequential count on this machine finds it (in {took})",
        thousands(counts.len() as u64)
    );
    Ok(())
}

fn print(counts: &Counts) {
    let mut common: Vec<(&String, &u64)> = counts.iter().collect();
    common.sort_unstable_by_key(|&(word, count)| (std::cmp::Reverse(*count), word.clone()));
    let most = common.first().map_or(1, |&(_, &count)| count);
    for (word, &count) in common.into_iter().take(SHOWN) {
        println!("   {word:>16} {:>9} {}", thousands(count), bar(count as f64 / most as f64, 40));
    }
}

/// Gathers the Rust sources of all dependencies, as they are in cargo's registry folder, in `folder`.
///
/// Returns each file's path in `folder` and its size.
fn gather(demo: &Demo<'_>, folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let version = output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not say its host")?;
    // What other platforms would need is not built here, and would be two thirds of the words.
    let metadata = output(&mut demo.workspace.cargo(["metadata", "--format-version", "1", "--filter-platform", host]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("`cargo metadata` is not JSON")?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` has no packages")?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let mut files = Vec::new();
    for package in packages.iter().filter(|package| package["source"].is_string()) {
        let manifest = package["manifest_path"].as_str().context("a package has no manifest")?;
        let source = Path::new(manifest).parent().context("a manifest is in no folder")?;
        let name = source.file_name().context("a package's folder has no name")?;
        gather_below(source, folder, Path::new(name), &mut files)?;
    }
    files.sort();
    Ok(files)
}

/// Lays the Rust files below `from` out as `inside` in `folder`.
fn gather_below(from: &Path, folder: &Path, inside: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read `{}`", from.display()))? {
        let entry = entry?;
        let (path, inside) = (entry.path(), inside.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            gather_below(&path, folder, &inside, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let place = folder.join(&inside);
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent)?;
            }
            // A link takes no time and no room; between two file systems there is none.
            fs::hard_link(&path, &place)
                .or_else(|_| fs::copy(&path, &place).map(drop))
                .with_context(|| format!("cannot copy `{}`", path.display()))?;
            files.push((inside, entry.metadata()?.len()));
        }
    }
    Ok(())
}

/// Shares out the files, so that each task has about as many bytes as any other.
fn shares(files: &[(PathBuf, u64)]) -> Vec<Vec<&PathBuf>> {
    let mut largest_first: Vec<&(PathBuf, u64)> = files.iter().collect();
    largest_first.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let mut shares = vec![(0, Vec::new()); TASKS];
    for (path, size) in largest_first {
        // `TASKS` is not zero.
        if let Some((bytes, share)) = shares.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            *bytes += size;
            share.push(path);
        }
    }
    shares.into_iter().map(|(_, share)| share).collect()
}

/// The plain count that the farm's must equal: one file after another, one map.
fn count(folder: &Path, files: &[(PathBuf, u64)]) -> Result<Counts> {
    let mut counts = Counts::new();
    for (file, _) in files {
        count_in(&fs::read(folder.join(file))?, &mut counts);
    }
    Ok(counts)
}

/// Counts ASCII identifiers; whatever cannot be part of one separates them.
fn count_in(text: &[u8], counts: &mut Counts) {
    let part_of_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    for word in text.split(|byte| !part_of_word(byte)) {
        // Only ASCII is left, so this is never lossy; a word that is known needs no new string.
        let word = String::from_utf8_lossy(word);
        if word.is_empty() || word.starts_with(|first: char| first.is_ascii_digit()) {
            continue;
        }
        match counts.get_mut(word.as_ref()) {
            Some(count) => *count += 1,
            None => {
                counts.insert(word.into_owned(), 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_counted_and_numbers_are_not() {
        let mut counts = Counts::new();
        count_in("fn f_1(x: u8) -> u8 { 0x7f + x } // é1 ü".as_bytes(), &mut counts);
        let mut found: Vec<(&str, u64)> = counts.iter().map(|(word, count)| (word.as_str(), *count)).collect();
        found.sort();
        assert_eq!(found, [("f_1", 1), ("fn", 1), ("u8", 2), ("x", 2)]);
    }

    #[test]
    fn every_file_is_in_one_share_and_the_shares_are_even() {
        let files: Vec<(PathBuf, u64)> =
            (0..1000).map(|number| (PathBuf::from(number.to_string()), 1 + number % 97)).collect();
        let shares = shares(&files);
        let mut all: Vec<&PathBuf> = shares.iter().flatten().copied().collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), files.len());
        let size_of = |path: &PathBuf| files.iter().find(|(other, _)| other == path).unwrap().1;
        let sizes: Vec<u64> = shares.iter().map(|share| share.iter().map(|path| size_of(path)).sum()).collect();
        assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 97, "{sizes:?}");
    }
}
