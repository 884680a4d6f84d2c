//! What the tables of calls beside the APIs put together: paths and schemas of an OpenAPI document, from the types of bodies.

use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// How types that are one word on the wire are shown.
macro_rules! plain {
    ($($type:ty, $name:literal, $kind:expr, $format:expr, $about:literal;)*) => {$(
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                let plain = utoipa::openapi::schema::ObjectBuilder::new().schema_type($kind).format($format);
                plain.description(Some($about)).into()
            }
        }
        impl utoipa::ToSchema for $type {
            fn name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
        }
    )*};
}
pub(crate) use plain;

/// Paths and schemas.
#[derive(Default)]
pub(crate) struct Document {
    pub(crate) paths: Map<String, Value>,
    pub(crate) schemas: Map<String, Value>,
}

/// One call, while it is put together.
pub(crate) struct Call<'d> {
    of: &'d mut Document,
    path: &'static str,
    method: &'static str,
    operation: Value,
}

/// Any text.
pub(crate) fn text() -> Value {
    json!({ "type": "string" })
}

impl Document {
    pub(crate) fn call<'d>(
        &'d mut self,
        method: &'static str,
        path: &'static str,
        summary: &str,
    ) -> Call<'d> {
        let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let parameter = |name| json!({ "name": name, "in": "path", "required": true, "schema": text() });
        let parameters: Vec<Value> = names.map(parameter).collect();
        let operation = json!({ "summary": summary, "parameters": parameters, "responses": {} });
        Call { of: self, path, method, operation }
    }

    /// A reference to the schema of a type; it and those that it names are there then.
    pub(crate) fn schema<T: ToSchema>(&mut self) -> Value {
        let mut found = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut found);
        for (name, schema) in found {
            // Links of the docs lead nowhere here.
            let text = serde_json::to_string(&schema).unwrap().replace("[`", "`").replace("`]", "`");
            let schema: Value = serde_json::from_str(&text).unwrap();
            let before = self.schemas.insert(name.clone(), schema.clone());
            assert!(before.is_none_or(|before| before == schema), "two schemas are called {name}");
        }
        json!({ "$ref": format!("#/components/schemas/{}", T::name()) })
    }
}

impl Call<'_> {
    pub(crate) fn method(&self) -> &'static str {
        self.method
    }

    pub(crate) fn schema<T: ToSchema>(&mut self) -> Value {
        self.of.schema::<T>()
    }

    /// One in the `query` or a `header`.
    pub(crate) fn parameter(mut self, place: &str, name: &str, about: &str, schema: Value) -> Self {
        let parameters = self.operation["parameters"].as_array_mut().unwrap();
        parameters.push(json!({ "name": name, "in": place, "description": about, "schema": schema }));
        self
    }

    /// Its body in JSON.
    pub(crate) fn takes(mut self, schema: Value, required: Option<bool>) -> Self {
        let mut body = json!({ "content": { "application/json": { "schema": schema } } });
        if let Some(required) = required {
            body["required"] = required.into();
        }
        self.operation["requestBody"] = body;
        self
    }

    pub(crate) fn answer(mut self, status: u16, about: &str, kind: &str, schema: Value) -> Self {
        let answer = &mut self.operation["responses"][status.to_string()];
        answer["description"] = about.into();
        answer["content"][kind]["schema"] = schema;
        self
    }

    /// That is all of it, and nobody is asked who calls.
    pub(crate) fn open(mut self) {
        self.operation["security"] = json!([]);
        self.put();
    }

    /// That is all of it.
    pub(crate) fn put(self) {
        let methods = self.of.paths.entry(self.path).or_insert_with(|| json!({}));
        let before = methods.as_object_mut().unwrap().insert(self.method.to_owned(), self.operation);
        assert_eq!(before, None, "{} {}", self.method, self.path);
    }
}
