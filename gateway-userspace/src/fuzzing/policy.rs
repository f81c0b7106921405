//! Policy files.

use crate::policy::Policy;

/// What is wrong with a file can be shown in it, and what is right is the same in another process.
pub(super) fn file(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    match Policy::parse("fuzzed.toml", text) {
        Err(errors) => {
            assert!(!errors.problems().is_empty(), "refused for nothing");
            for problem in errors.problems() {
                assert!(!problem.fault().mend().is_empty(), "{problem:?}");
            }
            assert!(errors.render(false, 80).contains("fuzzed.toml"));
        }
        Ok(policy) => {
            let again = Policy::from_carried(&policy.carried()).expect("it can be carried");
            assert_eq!(again.digest(), policy.digest());
            assert_eq!(again.agent(), policy.agent());
        }
    }
}
