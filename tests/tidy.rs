//! Style that no compiler checks, as plain tests over the source files. Every message says what to do.

use std::fmt::Write;
use std::path::{Path, PathBuf};

const COLUMNS_MAX: usize = 120;
/// Lines before a file's tests; the guide is 600, this is where it ends.
const LINES_MAX: usize = 800;

/// Folders with sources, from the repository's root.
const SOURCES: [&str; 7] = ["src", "model", "storage", "sync", "tests", "benches", "fuzz"];
/// Folders in them that hold no sources of ours.
const SKIPPED: [&str; 5] = ["target", "corpus", "artifacts", "found", "coverage"];

/// State machines and pure functions: a simulator replays them, so they read no clock and draw no randomness.
const PURE: [&str; 3] = ["model/src/", "sync/src/", "src/space/"];
/// The asynchronous shell around the space core: it reads the clock and draws the randomness that the core is given.
const SHELL: [&str; 2] = ["src/space/pump.rs", "src/space/handle.rs"];
/// Crates that neither spawn nor await.
const PURE_MANIFESTS: [&str; 2] = ["model/Cargo.toml", "sync/Cargo.toml"];
/// Who may name a library, by the beginning of the path. Anything else goes through these modules' own types.
const CONFINED: [(&str, &[&str], &[&str]); 3] = [
    // The node's settings and status speak of addresses; `Multiaddr` comes through `network`'s re-export.
    ("libp2p", &["src/network/", "src/network.rs"], &["tests/"]),
    // The command line is a client of the API, over a socket or in its own process.
    ("axum", &["src/api/", "src/api.rs", "src/cli/"], &["tests/", "fuzz/targets/src/api.rs"]),
    ("automerge", &["src/documents/", "src/documents.rs"], &["tests/", "benches/"]),
];

struct Source {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Lines with their numbers from 1, without the file's own tests.
    fn before_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let begins = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{');
        let end = lines.windows(2).position(begins).unwrap_or(lines.len());
        (1..).zip(lines).take(end)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut open: Vec<PathBuf> = SOURCES.iter().map(|folder| root().join(folder)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !SKIPPED.contains(&name.as_str()) && !name.starts_with('.') {
                open.push(path);
            } else if name.ends_with(".rs") {
                let relative = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
                sources.push(Source { path: relative, text: std::fs::read_to_string(&path).unwrap() });
            }
        }
    }
    assert!(sources.len() > 50, "the sources are not where this test looks for them");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Fails with all findings at once and one word of advice.
fn report(findings: &[String], advice: &str) {
    let mut list = String::new();
    findings.iter().for_each(|finding| writeln!(list, "  {finding}").unwrap());
    assert!(findings.is_empty(), "\n{list}{advice}\n");
}

fn lines_with(sources: &[Source], found: impl Fn(&str) -> bool) -> Vec<String> {
    let numbered = |source: &Source| -> Vec<String> {
        let lines = (1..).zip(source.text.lines()).filter(|(_, line)| found(line));
        lines.map(|(number, line): (usize, &str)| format!("{}:{number}: {}", source.path, line.trim())).collect()
    };
    sources.iter().flat_map(numbered).collect()
}

/// Whether `line` has `word` as a whole identifier.
fn names(line: &str, word: &str) -> bool {
    let part_of_word = |char: char| char.is_alphanumeric() || char == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word))
}

/// The line without its comment and without what stands in quotes.
fn code(line: &str) -> String {
    let line = line.split("//").next().unwrap_or_default();
    line.split('"').step_by(2).collect()
}

#[test]
fn lines_fit_the_width_and_end_where_their_text_does() {
    let sources = sources();
    let wide = lines_with(&sources, |line| line.chars().count() > COLUMNS_MAX);
    report(&wide, &format!("Break these lines: at most {COLUMNS_MAX} columns."));
    let trailing = lines_with(&sources, |line| line.ends_with([' ', '\t', '\r']));
    report(&trailing, "Remove the white space at the end of these lines.");
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled in halves, or this file would find itself.
    let words = [concat!("todo", "!"), concat!("unimplemented", "!"), concat!("dbg", "!"), concat!("FIX", "ME")];
    let marks = [concat!("XX", "X"), concat!("TO", "DO")];
    let found = lines_with(&sources(), |line| {
        words.iter().any(|word| line.contains(word)) || marks.iter().any(|mark| names(line, mark))
    });
    report(&found, "Finish it, or say in plain words what is absent and why.");
}

#[test]
fn files_hold_one_idea() {
    let long = |source: &Source| {
        let lines = source.before_tests().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines before its tests", source.path))
    };
    // A module's tests in a file of their own are all behind its declaration's `#[cfg(test)]`.
    let own_tests = |source: &&Source| source.path.ends_with("/tests.rs");
    let found: Vec<String> = sources().iter().filter(|source| !own_tests(source)).filter_map(long).collect();
    report(&found, &format!("Split these files by idea: at most {LINES_MAX} lines, 600 as a guide."));
}

#[test]
fn pure_code_reads_no_clock_and_draws_no_randomness() {
    const BANNED: [&str; 10] = [
        "Instant::now",
        "SystemTime::now",
        "thread_rng",
        "OsRng",
        "SysRng",
        "getrandom",
        "RandomState",
        "HashMap",
        "HashSet",
        "rand::rng",
    ];
    let mut found = Vec::new();
    let pure = |source: &&Source| {
        PURE.iter().any(|folder| source.path.starts_with(folder)) && !SHELL.contains(&source.path.as_str())
    };
    for source in sources().iter().filter(pure) {
        for (number, line) in source.before_tests() {
            let code = code(line);
            let banned = BANNED.iter().filter(|word| names(&code, word));
            found.extend(banned.map(|word| format!("{}:{number}: {word}", source.path)));
        }
    }
    report(&found, "Take time and randomness as arguments and use ordered maps: a simulator replays this code.");
}

#[test]
fn pure_crates_do_not_depend_on_a_runtime() {
    const RUNTIMES: [&str; 6] = ["tokio", "futures", "async-std", "libp2p", "getrandom", "sled"];
    let mut found = Vec::new();
    for manifest in PURE_MANIFESTS {
        let text = std::fs::read_to_string(root().join(manifest)).unwrap();
        let dependencies = text.split("\n[").find(|table| table.starts_with("dependencies]")).unwrap_or_default();
        let named = |line: &&str| RUNTIMES.contains(&line.split(['.', ' ', '=']).next().unwrap_or_default());
        found.extend(dependencies.lines().filter(named).map(|line| format!("{manifest}: {line}")));
    }
    report(&found, "These crates are state machines: input, output and waiting belong to the root crate.");
}

#[test]
fn libraries_are_named_only_in_the_module_that_adapts_them() {
    let mut found = Vec::new();
    for source in &sources() {
        for (library, adapters, tests) in CONFINED {
            let allowed = adapters.iter().chain(tests).any(|beginning| source.path.starts_with(beginning));
            if allowed || source.path == "tests/tidy.rs" {
                continue;
            }
            let lines = source.before_tests().filter(|(_, line)| names(&code(line), library));
            found.extend(
                lines.map(|(number, _)| format!("{}:{number}: {library} belongs in {adapters:?}", source.path)),
            );
        }
    }
    report(&found, "Use that module's own types, or extend CONFINED in tests/tidy.rs with a reason.");
}

/// The sources with a test of this name, as `file::name` or `folder::file::name` has it.
fn has_test(sources: &[Source], named: &str) -> bool {
    let mut path: Vec<&str> = named.split("::").collect();
    let Some(name) = path.pop() else { return false };
    let begins = format!("fn {name}(");
    let in_place = |source: &&Source| {
        let mut segments = source.path.trim_end_matches(".rs").split('/');
        path.iter().all(|wanted| segments.any(|segment| segment == *wanted))
    };
    let is_test = |source: &Source| {
        let lines: Vec<&str> = source.text.lines().collect();
        let at = lines.iter().position(|line| line.trim_start().trim_start_matches("async ").starts_with(&begins));
        let before = at.map(|at| &lines[at.saturating_sub(3)..at]).unwrap_or_default();
        before.iter().any(|line| line.trim() == "#[test]" || line.trim().starts_with("#[tokio::test"))
    };
    sources.iter().filter(in_place).any(is_test)
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let text = std::fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let promises =
        text.split("\n## ").find(|section| section.starts_with("Promises")).expect("the section of promises");
    let rows: Vec<&str> = promises.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() > 20, "the promises are not where this test looks for them");
    let (sources, mut found) = (sources(), Vec::new());
    for row in rows {
        let shown_by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let named: Vec<&str> = shown_by.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        if named.is_empty() {
            found.push(format!("no test: {row}"));
        }
        found.extend(named.iter().filter(|name| !has_test(&sources, name)).map(|name| format!("no such test: {name}")));
    }
    report(&found, "Name the tests that show a promise as they are named, file and function.");
}

#[test]
fn no_test_file_is_forgotten() {
    let main = std::fs::read_to_string(root().join("tests/main.rs")).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("tests")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "main") else { continue };
        let declared = main.lines().any(|line| line.trim() == format!("mod {module};"));
        if !declared {
            found.push(format!("tests/{name}"));
        }
    }
    report(&found, "Add `mod …;` for these files to tests/main.rs, or they never run.");
}
