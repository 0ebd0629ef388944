//! The text log. One test only: the subscriber belongs to the whole process.

use coconut::Error;
use std::fs;

#[test]
fn goes_to_the_file_it_was_last_pointed_at() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a/log.txt"), folder.path().join("b/log.txt"));
    coconut::log::install(Some(&first)).unwrap();
    tracing::info!(stage = 2, "stage begins");
    tracing::debug!("not for the log");
    coconut::log::install(Some(&second)).unwrap();
    tracing::warn!("slow disk");

    let (first, second) = (fs::read_to_string(first).unwrap(), fs::read_to_string(second).unwrap());
    assert_eq!((first.lines().count(), second.lines().count()), (1, 1));
    assert!(first.contains("INFO") && first.contains("stage begins stage=2"), "{first}");
    assert!(second.contains("WARN") && second.contains("slow disk"), "{second}");
    assert!(!second.contains('\x1b'), "{second}");

    let error = coconut::log::install(Some(folder.path())).unwrap_err();
    assert!(matches!(error, Error::Io { action: "open", .. }), "{error}");
}
