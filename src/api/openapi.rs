//! The description of the API (OpenAPI).

use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::body;
use super::problem::Problem;
use super::routes::{changes, documents, node, spaces, upkeep};

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
        node::health, node::metrics, node::status, node::peers, node::connect,
        spaces::list, spaces::create, spaces::join, spaces::show, spaces::leave, spaces::invite, spaces::members,
        upkeep::verify, upkeep::backup, upkeep::backup_with_keys,
        documents::list, documents::get, documents::put, documents::patch, documents::delete, documents::transact,
        documents::history, documents::conflicts, documents::all_conflicts, changes::changes,
    ),
    components(schemas(Problem, body::Watching)),
    modifiers(&TokenScheme),
    security(("token" = [])),
    tags(
        (name = "node", description = "The node and its peers."),
        (name = "spaces", description = "Spaces, their members and invitations."),
        (name = "documents", description = "Documents and what changes in them."),
    ),
)]
struct Description;

struct TokenScheme;

impl Modify for TokenScheme {
    fn modify(&self, document: &mut Document) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some("The token in the file `api.token` of the node's data directory.".to_owned());
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
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
        assert!(text.contains("\"token\""));
    }
}
