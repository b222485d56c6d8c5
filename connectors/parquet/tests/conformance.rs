//! The suite that every target runs, on a file system and over S3's API.

mod support;

use std::sync::Arc;

use crossfade_core::conformance::{TargetFixture, run_target};
use crossfade_core::{Result, Target};
use crossfade_harness::S3;
use support::open;
use tempfile::TempDir;
use tokio::runtime::Runtime;

struct Folder {
    runtime: Runtime,
    folder: TempDir,
}

impl TargetFixture for Folder {
    fn fresh(&mut self) -> Result<()> {
        self.folder = tempfile::tempdir().unwrap();
        Ok(())
    }

    fn schema(&self) -> String {
        "shop".into()
    }

    fn target(&mut self) -> Result<Arc<dyn Target>> {
        Ok(open(&format!("file://{}", self.folder.path().display()), &self.runtime))
    }
}

struct Objects {
    runtime: Runtime,
    url: String,
}

impl TargetFixture for Objects {
    fn fresh(&mut self) -> Result<()> {
        let s3 = S3::shared();
        self.url = support::s3_url(&s3.fresh_bucket("conformance"), &s3.endpoint());
        Ok(())
    }

    fn schema(&self) -> String {
        "shop".into()
    }

    fn target(&mut self) -> Result<Arc<dyn Target>> {
        Ok(open(&self.url, &self.runtime))
    }
}

#[test]
fn a_folder_conforms() {
    run_target(&mut Folder { runtime: support::runtime(), folder: tempfile::tempdir().unwrap() });
}

#[test]
fn an_object_store_conforms() {
    run_target(&mut Objects { runtime: support::runtime(), url: String::new() });
}
