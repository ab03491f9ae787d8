//! The models that a user sees.

use http::Method;
use serde_json::json;

use crate::support::{ADMIN, Answer, CONFIG, NARROW, TestGateway, snapshot};

fn ids(answer: &Answer) -> Vec<String> {
    let data = answer.json()["data"].as_array().expect("a list").clone();
    data.iter().map(|item| item["id"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn the_list_is_what_this_user_may_use_sorted() {
    let gateway = TestGateway::new(CONFIG);
    for path in ["/models", "/v1/models"] {
        assert_eq!(ids(&gateway.get(path, ADMIN).await), ["narrow", "org/wide", "premium"]);
        assert_eq!(ids(&gateway.get(path, NARROW).await), ["narrow"]);
    }
}

#[tokio::test]
async fn a_model_whose_backends_are_all_fenced_off_by_tags_is_not_listed() {
    let config = CONFIG.replace(r#"allowed_models = ["narrow"]"#, "allowed_models = []");
    assert_eq!(ids(&TestGateway::new(&config).get("/v1/models", NARROW).await), ["narrow", "org/wide"]);
}

#[tokio::test]
async fn an_item_has_openais_shape() {
    let answer = TestGateway::new(CONFIG).get("/v1/models", NARROW).await;
    let item = json!({"id": "narrow", "object": "model", "created": 1_735_689_600, "owned_by": "berry-api"});
    assert_eq!(answer.json(), json!({"object": "list", "data": [item]}));
}

#[tokio::test]
async fn a_model_is_found_by_any_of_its_names_with_slashes_encoded_or_not() {
    let gateway = TestGateway::new(CONFIG);
    for path in ["/v1/models/org/wide", "/v1/models/org%2Fwide", "/v1/models/wide"] {
        assert_eq!(gateway.get(path, ADMIN).await.json()["id"], "org/wide", "{path}");
    }
}

#[tokio::test]
async fn a_model_that_is_not_there_is_404_for_all_and_one_that_is_not_allowed_is_403() {
    let gateway = TestGateway::new(CONFIG);
    for (name, token, code) in [
        ("ghost", ADMIN, "model_not_found"),
        ("ghost", NARROW, "model_not_found"),
        ("off", ADMIN, "model_not_found"),
        ("org/wide", NARROW, "model_access_denied"),
    ] {
        let answer = gateway.get(&format!("/v1/models/{name}"), token).await;
        assert_eq!(answer.error_code(), code, "{name} {token}");
    }
}

#[tokio::test]
async fn anthropics_clients_get_their_own_shape() {
    let gateway = TestGateway::new(CONFIG);
    let headers = [("x-api-key", ADMIN), ("anthropic-version", "2023-06-01")];
    let list = gateway.send(Method::GET, "/v1/models", &headers, "").await.json();
    assert_eq!((list["first_id"].as_str(), list["last_id"].as_str()), (Some("narrow"), Some("premium")));
    assert_eq!(list["has_more"], false);
    let one = json!({"type": "model", "id": "narrow", "display_name": "narrow", "created_at": "2025-01-01T00:00:00Z"});
    assert_eq!(list["data"][0], one);
    assert_eq!(gateway.send(Method::GET, "/v1/models/narrow", &headers, "").await.json(), one);
    let missing = gateway.send(Method::GET, "/v1/models/ghost", &headers, "").await;
    assert_eq!(missing.json()["error"]["type"], "not_found_error");
}

#[test]
fn the_line_to_try_names_a_model_that_can_be_asked_for() {
    let pattern = "[models.a]\nname = \"a-*\"\n[[models.a.backends]]\nprovider = \"nowhere\"\nmodel = \"$name\"\n";
    let line = berry_api::run::try_it_line(&snapshot(&format!("{CONFIG}{pattern}")), ([127, 0, 0, 1], 3000).into());
    assert!(line.as_deref().is_some_and(|line| !line.contains('*')), "{line:?}");
    let only = format!("[providers.nowhere]\nbase_url = \"http://127.0.0.1:9\"\n{pattern}");
    assert_eq!(berry_api::run::try_it_line(&snapshot(&only), ([127, 0, 0, 1], 3000).into()), None);
}
