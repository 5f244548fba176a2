//! What an API server says when it refuses, in one line, and what can be done about it.

use kube::runtime::watcher;

/// The message alone: an error of the client would show all of the answer twice.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({}){}", status.message, status.code, remedy(status)),
        other => other.to_string(),
    }
}

/// Likewise, of a watch.
pub fn watch_said(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) => format!("list: {}", said(error)),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => said(error),
        watcher::Error::WatchError(status) => format!("{} ({})", status.message, status.code),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// Whether nothing can be made any more in a namespace because it is being deleted.
pub fn is_of_a_dying_namespace(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403
        && causes
            .into_iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
}

fn remedy(status: &kube::core::Status) -> &'static str {
    match status.code {
        // Another version's or system's definition: the API server takes no field that it lacks.
        _ if status.message.contains("field not declared in schema") => {
            "; apply the CustomResourceDefinitions of this version (palisade crds)"
        }
        404 if status.message.contains("could not find the requested resource")
            || status.message == "404 page not found" =>
        {
            "; apply the CustomResourceDefinitions (palisade crds)"
        }
        401 => "; let the API server know the ServiceAccount's token",
        403 if !status.message.contains("being terminated") => "; grant it to the ServiceAccount",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn api(code: u16, message: &str) -> kube::Error {
        let mut status = Status::failure(message, "Reason");
        status.code = code;
        kube::Error::Api(status.boxed())
    }

    #[test]
    fn a_refusal_is_told_once_with_what_can_be_done() {
        let said = said(&api(500, "failed: .spec.slice: field not declared in schema"));
        assert_eq!(
            said,
            "failed: .spec.slice: field not declared in schema (500); apply the CustomResourceDefinitions of this version (palisade crds)"
        );
        let forbidden = watcher::Error::InitialListFailed(api(403, "pods is forbidden"));
        assert_eq!(
            watch_said(&forbidden),
            "list: pods is forbidden (403); grant it to the ServiceAccount"
        );
    }
}
