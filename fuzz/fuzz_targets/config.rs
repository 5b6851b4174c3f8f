//! Configuration files: an answer for every text, and errors that point into it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livegate::config::parse;

fuzz_target!(|text: &str| {
    match parse(text) {
        Ok(config) => {
            // What is accepted is the same each time, and can be shown.
            assert_eq!(
                parse(text).expect("accepted before").to_json(),
                config.to_json()
            );
        }
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            let lines = text.split('\n').count();
            for error in errors {
                assert!(error.line >= 1 && error.column >= 1, "{error:?}");
                assert!(error.line <= lines, "{error:?} in {lines} lines");
                assert!(!error.message.is_empty(), "{error:?}");
            }
        }
    }
});
