//! The model card, which is written anew when a check has measured what it shows.

use crate::support::fault::Fault;
use crate::support::{Outcome, artifact};
use crate::validate_at;
use pemlc_artifact::artifact::ArtifactManifest;
use pemlc_artifact::hash::{first_difference, hash_file};
use pemlc_runtime::{CheckError, RuntimeKind, record};
use std::path::Path;

/// A card that shows something of the validation.
fn card(manifest: &ArtifactManifest) -> String {
    format!("checked on {} runtimes", manifest.validation.iter().flat_map(|validation| &validation.runtimes).count())
}

/// A right artifact with a card.
fn write(dir: &Path) -> Outcome {
    artifact::write(dir, Fault::None)?;
    std::fs::write(dir.join("README.md"), "not checked")?;
    let hash = hash_file(&dir.join("README.md"), "README.md")?;
    artifact::edit(dir, |manifest| manifest.files.push(hash))
}

#[test]
fn the_card_and_its_hash_come_with_the_validation() -> Outcome {
    let dir = tempfile::tempdir()?;
    write(dir.path())?;
    let validation = validate_at(dir.path(), &[RuntimeKind::Tract])?;
    // Again, when the card is as it was.
    for _ in 0..2 {
        record(dir.path(), &validation, Some(card))?;
        let manifest = artifact::manifest(dir.path())?;
        assert!(manifest.validated);
        assert_eq!(std::fs::read_to_string(dir.path().join("README.md"))?, "checked on 1 runtimes");
        assert_eq!(first_difference(dir.path(), &manifest.files), None);
    }
    Ok(())
}

#[test]
fn an_artifact_without_a_card_gets_none() -> Outcome {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    record(dir.path(), &validate_at(dir.path(), &[RuntimeKind::Tract])?, Some(card))?;
    assert!(artifact::manifest(dir.path())?.validated && !dir.path().join("README.md").exists());
    Ok(())
}

#[test]
fn nothing_is_vouched_for_beside_a_card_that_could_not_be_written() -> Outcome {
    for validated_before in [false, true] {
        let dir = tempfile::tempdir()?;
        write(dir.path())?;
        let validation = validate_at(dir.path(), &[RuntimeKind::Tract])?;
        artifact::edit(dir.path(), |manifest| manifest.validated = validated_before)?;
        // No file takes the place of a folder.
        std::fs::remove_file(dir.path().join("README.md"))?;
        std::fs::create_dir(dir.path().join("README.md"))?;
        let error = record(dir.path(), &validation, Some(card)).err().ok_or("written")?;
        assert!(matches!(error, CheckError::Card { .. }), "{error}");
        assert!(!artifact::manifest(dir.path())?.validated);
    }
    Ok(())
}
