//! The engine does what the model does, also after it was opened again.

use proptest::test_runner::{Config, TestRunner};

use super::options;
use crate::store::conformance::random::{compare, steps};
use crate::store::sled::{Opened, open};

#[test]
fn the_engine_does_what_the_model_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let mut runner = TestRunner::new(Config { cases: 12, ..Config::default() });
    let run = runner.run(&steps(), |steps| {
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let Opened { store, handle } = open(options(dir.path())).unwrap();
            let mut handle = Some(handle);
            let reopen = async || {
                drop(handle.take());
                let opened = open(options(dir.path())).unwrap();
                handle = Some(opened.handle);
                opened.store
            };
            compare(steps, store, reopen).await;
        });
        Ok(())
    });
    run.unwrap();
}
