//! The annotation that has a policy, or the policies of a namespace, audited instead of enforced.

use super::fields::{Fields, Path, Reader};
use crate::model::Enforcement;

pub const ANNOTATION: &str = "palisade.dev/enforcement";

/// The path of the annotation, as problems name it.
pub const FIELD: &str = "metadata.annotations[\"palisade.dev/enforcement\"]";

/// What the annotation of a NetworkPolicy or a Namespace says; `None` where it is absent. What it cannot mean enforces.
/// `at`: of the annotations.
pub fn read(at: &Path<'_>, metadata: &Fields, reader: &mut Reader) -> Option<Enforcement> {
    let annotations = metadata.get("annotations");
    let at = at.key(ANNOTATION);
    let value = annotations.and_then(|all| all.get(ANNOTATION))?;
    if value.is_null() {
        return None;
    }
    match value.as_str() {
        Some("audit") => Some(Enforcement::Audit),
        Some("enforce") => Some(Enforcement::Enforce),
        _ => {
            let message = "is neither audit nor enforce: it enforces";
            let remedy = "write audit, or enforce, or remove the annotation";
            reader.report(&at, value, message, remedy);
            Some(Enforcement::Enforce)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(annotations: serde_json::Value) -> (Option<Enforcement>, Vec<String>) {
        let mut reader = Reader::new("NetworkPolicy shop/web".to_string());
        let metadata = json!({"annotations": annotations});
        let metadata = metadata.as_object().unwrap();
        let found = read(
            &Path::Root.key("metadata").key("annotations"),
            metadata,
            &mut reader,
        );
        (found, reader.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn whatever_is_not_audit_enforces_and_is_reported() {
        assert_eq!(of(json!(null)), (None, vec![]));
        assert_eq!(of(json!({"other": "audit"})), (None, vec![]));
        assert_eq!(
            of(json!({ANNOTATION: "audit"})),
            (Some(Enforcement::Audit), vec![])
        );
        assert_eq!(
            of(json!({ANNOTATION: "enforce"})),
            (Some(Enforcement::Enforce), vec![])
        );
        for odd in [
            json!("Audit"),
            json!(" audit"),
            json!(""),
            json!(true),
            json!(["audit"]),
            json!("a\u{1b}[2J"),
        ] {
            let (enforcement, problems) = of(json!({ANNOTATION: odd}));
            assert_eq!(enforcement, Some(Enforcement::Enforce), "{odd}");
            let [problem] = &problems[..] else {
                panic!("one problem of {odd}: {problems:?}");
            };
            assert!(problem.starts_with("NetworkPolicy shop/web: "), "{problem}");
            assert!(
                problem.contains(FIELD) && problem.contains("audit nor enforce"),
                "{problem}"
            );
            assert!(!problem.contains('\u{1b}'), "{problem:?}");
        }
    }
}
