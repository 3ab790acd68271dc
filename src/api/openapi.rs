//! The description of the API (OpenAPI).

use axum::http::Method;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::body;
use super::problem::Problem;
use super::routes::{bytes, changes, documents, members, node, spaces, tokens, upkeep};
use super::scopes::{Need, need};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Syncline",
        description = "The HTTP API of a Syncline node: spaces of signed, sealed, conflict-free documents. Failed \
                       requests are answered with problem details (RFC 9457). The header `Syncline-Version` and the \
                       field `version` carry the version of the space that an answer shows; pass it as `wait_for` to \
                       a read that has to see at least that much.",
    ),
    paths(
        node::health, node::metrics, node::status, node::peers, node::connect, node::ban, node::unban,
        spaces::list, spaces::create, spaces::join, spaces::show, spaces::leave, spaces::invite,
        members::list, members::add, members::remove, members::change_role, members::hand_over, members::recover,
        members::rotate, members::resolve, members::change, members::invitations, members::revoke, members::log,
        members::uncounted,
        upkeep::verify, upkeep::backup, upkeep::backup_with_keys, tokens::list, tokens::create, tokens::revoke,
        bytes::seal, bytes::open, bytes::sign, bytes::verify,
        documents::list, documents::get, documents::put, documents::patch, documents::delete, documents::transact,
        documents::history, documents::conflicts, documents::all_conflicts, changes::changes,
    ),
    components(schemas(Problem, body::Watching)),
    modifiers(&TokenScheme, &Scopes),
    security(("token" = [])),
    tags(
        (name = "node", description = "The node and its peers."),
        (name = "tokens", description = "Tokens for other programs."),
        (name = "bytes", description = "Bytes of a person's own: sealed for a device, signed by this one."),
        (name = "spaces", description = "Spaces and invitations into them."),
        (name = "members", description = "Who is in a space, who was, and the keys that follow from it."),
        (name = "documents", description = "Documents and what changes in them."),
    ),
)]
struct Description;

struct TokenScheme;

impl Modify for TokenScheme {
    fn modify(&self, document: &mut Document) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        let description = "The token in the file `api.token` of the node's data directory, which allows everything, or \
                           one that was made with a scope.";
        scheme.description = Some(description.to_owned());
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Writes down which scope each route needs, as the guard's table has it.
struct Scopes;

impl Modify for Scopes {
    fn modify(&self, document: &mut Document) {
        for (path, item) in &mut document.paths.paths {
            let path = path.replace("{key}", "{*key}");
            let operations = [
                (Method::GET, &mut item.get),
                (Method::PUT, &mut item.put),
                (Method::POST, &mut item.post),
                (Method::PATCH, &mut item.patch),
                (Method::DELETE, &mut item.delete),
            ];
            for (method, operation) in operations {
                let Some(operation) = operation else { continue };
                let (scope, place) = match need(&method, &path) {
                    Need::Space(scope) => (scope.name(), "for the space"),
                    Need::Node(scope) => (scope.name(), "for all spaces"),
                    Need::Owner => continue,
                };
                operation.security = Some(vec![SecurityRequirement::new("token", [scope])]);
                let description = operation.description.get_or_insert_default();
                let gap = if description.is_empty() { "" } else { "\n\n" };
                description.push_str(&format!("{gap}Needs the scope `{scope}` {place}."));
            }
        }
    }
}

/// The description of every route of the API.
pub fn document() -> Document {
    Description::openapi()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let json = serde_json::to_value(document()).unwrap();
        let paths = json["paths"].as_object().unwrap();
        // The routes are read from the table itself, so that none is forgotten here.
        let table = include_str!("router.rs");
        let routes = table.split('"').filter(|text| text.starts_with('/') && !text.starts_with("//"));
        for route in routes.filter(|route| *route != "/openapi.json") {
            let path = route.replace("{*key}", "{key}");
            assert!(paths.contains_key(&path), "{path} is not described");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let json = serde_json::to_value(document()).unwrap();
        let text = json.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(json.pointer(pointer).is_some(), "{pointer} is missing");
        }
        let write = &json["paths"]["/v1/spaces/{space}/documents/{key}"]["put"];
        assert_eq!(write["security"], serde_json::json!([{"token": ["write"]}]));
        assert!(write["description"].as_str().unwrap().ends_with("Needs the scope `write` for the space."));
        assert_eq!(json["paths"]["/healthz"]["get"]["security"], serde_json::json!([{}]));
    }
}
