//! The part of JSON Schema that types have: what `schemars` makes of serde's, and `super::wit` of WIT's.
//!
//! Not the crate `jsonschema`: it brings forty crates, a regular expression engine among them, for what types never
//! say (patterns, formats, conditions), and checks a `serde_json::Value` where a number in a table of a million needs
//! none. This checker has one rule about what it does not know: a keyword that is not listed here allows everything,
//! because the function reads the argument once more and has the last word.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// A schema, compiled: names are resolved, and what says nothing is gone.
#[derive(Debug)]
pub(super) struct Schema {
    rules: Vec<Rule>,
    root: usize,
}

/// Where and why a value does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Steps from the root, innermost last.
    pub(super) path: Vec<Step>,
    pub(super) expected: String,
    pub(super) found: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Index(usize),
    Key(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Types(u8);

impl Types {
    const NULL: Self = Self(1);
    const BOOLEAN: Self = Self(2);
    const INTEGER: Self = Self(4);
    const NUMBER: Self = Self(8);
    const STRING: Self = Self(16);
    const ARRAY: Self = Self(32);
    const OBJECT: Self = Self(64);
    const NAMED: [(Self, &'static str, &'static str); 7] = [
        (Self::NULL, "null", "null"),
        (Self::BOOLEAN, "boolean", "true or false"),
        (Self::INTEGER, "integer", "an integer"),
        (Self::NUMBER, "number", "a number"),
        (Self::STRING, "string", "a string"),
        (Self::ARRAY, "array", "an array"),
        (Self::OBJECT, "object", "an object"),
    ];

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn of_name(name: &Value) -> Option<Self> {
        let name = name.as_str()?;
        Self::NAMED.iter().find(|(_, word, _)| *word == name).map(|(types, ..)| *types)
    }

    fn words(self) -> Vec<&'static str> {
        Self::NAMED.iter().filter(|(types, ..)| self.has(*types)).map(|(.., words)| *words).collect()
    }
}

/// One (sub)schema. A field that is empty or `None` says nothing.
#[derive(Debug, Default)]
struct Rule {
    never: bool,
    types: Option<Types>,
    /// The values that there are, of `enum` or `const`.
    values: Option<Vec<Value>>,
    minimum: Option<Number>,
    maximum: Option<Number>,
    /// In characters.
    min_length: Option<u64>,
    max_length: Option<u64>,
    prefix: Vec<usize>,
    items: Option<usize>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    properties: Vec<(String, usize)>,
    required: Vec<String>,
    /// For properties that are not listed.
    additional: Option<usize>,
    /// All of these must hold.
    all: Vec<usize>,
    /// One of each of these must hold.
    any: Vec<Vec<usize>>,
}

/// Builds the rules. A `$ref` may go around in a circle, so that a name is given its number before its rule is read.
struct Compiler<'a> {
    root: &'a Value,
    rules: Vec<Rule>,
    references: Vec<(&'a str, usize)>,
}

impl<'a> Compiler<'a> {
    fn compile(&mut self, schema: &'a Value) -> usize {
        let id = self.reserve();
        self.rules[id] = self.rule(schema);
        id
    }

    fn reserve(&mut self) -> usize {
        self.rules.push(Rule::default());
        self.rules.len() - 1
    }

    fn reference(&mut self, name: &'a str) -> Option<usize> {
        if let Some((_, id)) = self.references.iter().find(|(known, _)| *known == name) {
            return Some(*id);
        }
        let target = self.root.pointer(name.strip_prefix('#')?)?;
        let id = self.reserve();
        self.references.push((name, id));
        self.rules[id] = self.rule(target);
        Some(id)
    }

    fn many(&mut self, schemas: Option<&'a Value>) -> Vec<usize> {
        schemas.and_then(Value::as_array).into_iter().flatten().map(|schema| self.compile(schema)).collect()
    }

    fn rule(&mut self, schema: &'a Value) -> Rule {
        let schema = match schema {
            Value::Bool(false) => return Rule { never: true, ..Rule::default() },
            Value::Object(schema) => schema,
            _ => return Rule::default(),
        };
        let mut rule = Rule {
            types: types_of(schema.get("type")),
            values: match (schema.get("enum"), schema.get("const")) {
                (Some(Value::Array(values)), _) => Some(values.clone()),
                (_, Some(value)) => Some(vec![value.clone()]),
                _ => None,
            },
            minimum: number(schema.get("minimum")),
            maximum: number(schema.get("maximum")),
            min_length: count(schema.get("minLength")),
            max_length: count(schema.get("maxLength")),
            min_items: count(schema.get("minItems")),
            max_items: count(schema.get("maxItems")),
            prefix: self.many(schema.get("prefixItems")),
            items: schema.get("items").map(|items| self.compile(items)),
            required: strings(schema.get("required")),
            all: self.many(schema.get("allOf")),
            ..Rule::default()
        };
        if let Some(Value::Object(properties)) = schema.get("properties") {
            for (name, property) in properties {
                let id = self.compile(property);
                rule.properties.push((name.clone(), id));
            }
        }
        // A map whose keys have a pattern: what is known of its values is that one of the patterns' schemas fits.
        rule.additional = match schema.get("patternProperties") {
            Some(Value::Object(patterns)) if !patterns.is_empty() => {
                let ids = patterns.values().map(|pattern| self.compile(pattern)).collect();
                let id = self.reserve();
                self.rules[id] = Rule { any: vec![ids], ..Rule::default() };
                Some(id)
            }
            _ => schema.get("additionalProperties").map(|additional| self.compile(additional)),
        };
        // That no second alternative fits is for the function to find out.
        for keyword in ["anyOf", "oneOf"] {
            let alternatives = self.many(schema.get(keyword));
            if !alternatives.is_empty() {
                rule.any.push(alternatives);
            }
        }
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            let id = self.reference(name);
            rule.all.extend(id);
        }
        bound_by_format(&mut rule, schema.get("format"));
        rule
    }
}

/// Rust's integers: `schemars` gives some of them a format only.
fn bound_by_format(rule: &mut Rule, format: Option<&Value>) {
    let (minimum, maximum): (i64, u64) = match format.and_then(Value::as_str) {
        Some("int8") => (i8::MIN.into(), 0x7f),
        Some("int16") => (i16::MIN.into(), 0x7fff),
        Some("int32") => (i32::MIN.into(), 0x7fff_ffff),
        Some("int64" | "int") => (i64::MIN, 0x7fff_ffff_ffff_ffff),
        Some("uint8") => (0, u8::MAX.into()),
        Some("uint16") => (0, u16::MAX.into()),
        Some("uint32") => (0, u32::MAX.into()),
        Some("uint64" | "uint") => (0, u64::MAX),
        Some("int128" | "uint128") => {
            // Beyond 64 bits an integer is parsed to a float here; that is no fault of it.
            rule.types = rule.types.map(|types| Types(types.0 | Types::NUMBER.0));
            return;
        }
        _ => return,
    };
    rule.minimum.get_or_insert_with(|| minimum.into());
    rule.maximum.get_or_insert_with(|| maximum.into());
}

fn types_of(ty: Option<&Value>) -> Option<Types> {
    match ty? {
        Value::Array(names) => {
            names.iter().map(Types::of_name).try_fold(Types(0), |types, more| Some(Types(types.0 | more?.0)))
        }
        name => Types::of_name(name),
    }
}

fn number(value: Option<&Value>) -> Option<Number> {
    value?.as_number().cloned()
}

fn count(value: Option<&Value>) -> Option<u64> {
    value?.as_u64()
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let strings = value.and_then(Value::as_array).into_iter().flatten();
    strings.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Compares without losing what a float cannot hold.
fn less(a: &Number, b: &Number) -> bool {
    fn wide(number: &Number) -> Option<i128> {
        number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
    }
    match (wide(a), wide(b)) {
        (Some(a), Some(b)) => a < b,
        _ => a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| a < b),
    }
}

impl Schema {
    pub(super) fn compile(schema: &Value) -> Self {
        let mut compiler = Compiler { root: schema, rules: Vec::new(), references: Vec::new() };
        let root = compiler.compile(schema);
        Self { rules: compiler.rules, root }
    }

    /// The bounds of a plain integer, if this is nothing more: what the fast path needs.
    pub(super) fn as_integer(&self) -> Option<(i128, i128)> {
        let rule = &self.rules[self.root];
        let plain = rule.types == Some(Types::INTEGER)
            && rule.values.is_none()
            && rule.all.is_empty()
            && rule.any.is_empty()
            && !rule.never;
        let bound = |number: &Option<Number>, default: i128| match number {
            None => Some(default),
            Some(number) => number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)),
        };
        // Beyond 64 bits the slow path decides, so that both say the same.
        let minimum = bound(&rule.minimum, i64::MIN.into())?;
        let maximum = bound(&rule.maximum, u64::MAX.into())?;
        plain.then_some((minimum, maximum))
    }

    /// Whether this allows any number at all.
    pub(super) fn takes_any_number(&self) -> bool {
        self.rule_takes_any_number(self.root)
    }

    fn rule_takes_any_number(&self, id: usize) -> bool {
        let rule = &self.rules[id];
        !rule.never
            && rule.types.is_none_or(|types| types.has(Types::NUMBER))
            && rule.values.is_none()
            && rule.minimum.is_none()
            && rule.maximum.is_none()
            && rule.all.is_empty()
            && rule.any.iter().all(|any| any.iter().any(|id| self.rule_takes_any_number(*id)))
    }

    pub(super) fn check(&self, value: &Value) -> Result<(), Fault> {
        let mut path = Vec::new();
        self.check_rule(self.root, value, &mut path)
    }

    fn check_rule(&self, id: usize, value: &Value, path: &mut Vec<Step>) -> Result<(), Fault> {
        let rule = &self.rules[id];
        let fault = |path: &[Step]| Fault { path: path.to_vec(), expected: self.words(id, 0), found: found(value) };
        if rule.never || !rule.types.is_none_or(|types| is_of(types, value)) {
            return Err(fault(path));
        }
        if rule.values.as_ref().is_some_and(|values| !values.contains(value)) {
            return Err(fault(path));
        }
        let fits = match value {
            Value::Number(number) => {
                !rule.minimum.as_ref().is_some_and(|minimum| less(number, minimum))
                    && !rule.maximum.as_ref().is_some_and(|maximum| less(maximum, number))
            }
            Value::String(text) => {
                (rule.min_length.is_none() && rule.max_length.is_none())
                    || within(text.chars().count(), rule.min_length, rule.max_length)
            }
            Value::Array(items) => within(items.len(), rule.min_items, rule.max_items),
            _ => true,
        };
        if !fits {
            return Err(fault(path));
        }
        match value {
            Value::Array(items) => self.check_items(rule, items, path)?,
            Value::Object(object) => self.check_properties(rule, object, path)?,
            _ => {}
        }
        for id in &rule.all {
            self.check_rule(*id, value, path)?;
        }
        rule.any.iter().try_for_each(|any| self.check_any(any, value, path))
    }

    fn check_items(&self, rule: &Rule, items: &[Value], path: &mut Vec<Step>) -> Result<(), Fault> {
        for (index, item) in items.iter().enumerate() {
            if let Some(id) = rule.prefix.get(index).copied().or(rule.items) {
                path.push(Step::Index(index));
                self.check_rule(id, item, path)?;
                path.pop();
            }
        }
        Ok(())
    }

    fn check_properties(&self, rule: &Rule, object: &Map<String, Value>, path: &mut Vec<Step>) -> Result<(), Fault> {
        for (name, property) in object {
            let known = rule.properties.iter().find(|(known, _)| known == name).map(|(_, id)| *id);
            let Some(id) = known.or(rule.additional) else {
                continue;
            };
            path.push(Step::Key(name.clone()));
            if known.is_none() && self.rules[id].never {
                let names: Vec<&str> = rule.properties.iter().map(|(name, _)| name.as_str()).collect();
                let expected = if names.is_empty() {
                    "nothing of that name".to_owned()
                } else {
                    format!("only {}", list(&names, "and"))
                };
                return Err(Fault { path: path.clone(), expected, found: found(property) });
            }
            self.check_rule(id, property, path)?;
            path.pop();
        }
        for name in &rule.required {
            if !object.contains_key(name) {
                path.push(Step::Key(name.clone()));
                let id = rule.properties.iter().find(|(known, _)| known == name).map(|(_, id)| *id);
                let expected = id.map_or_else(|| "a value".to_owned(), |id| self.words(id, 0));
                return Err(Fault { path: path.clone(), expected, found: "nothing".to_owned() });
            }
        }
        Ok(())
    }

    /// Of alternatives none of which fits, the one that went deepest is what was meant.
    fn check_any(&self, any: &[usize], value: &Value, path: &mut Vec<Step>) -> Result<(), Fault> {
        let depth = path.len();
        let mut deepest: Option<Fault> = None;
        for id in any {
            match self.check_rule(*id, value, path) {
                Ok(()) => return Ok(()),
                Err(fault) => {
                    path.truncate(depth);
                    if fault.path.len() > deepest.as_ref().map_or(depth, |known| known.path.len()) {
                        deepest = Some(fault);
                    }
                }
            }
        }
        Err(deepest.unwrap_or_else(|| Fault {
            path: path.clone(),
            expected: self.words_of_any(any, 0),
            found: found(value),
        }))
    }

    /// What a rule expects, as the end of a sentence.
    fn words(&self, id: usize, depth: usize) -> String {
        const DEEP_ENOUGH: usize = 3;
        let rule = &self.rules[id];
        if rule.never {
            return "nothing".to_owned();
        }
        if let Some(values) = &rule.values {
            let words: Vec<String> = values.iter().map(Value::to_string).collect();
            return list(&words.iter().map(String::as_str).collect::<Vec<_>>(), "or");
        }
        if let Some(types) = rule.types {
            let mut words = list(&types.words(), "or");
            let numeric = types.has(Types::INTEGER) || types.has(Types::NUMBER);
            match (&rule.minimum, &rule.maximum) {
                (Some(minimum), Some(maximum)) if numeric => _ = write!(words, " from {minimum} to {maximum}"),
                (Some(minimum), None) if numeric => _ = write!(words, " from {minimum}"),
                (None, Some(maximum)) if numeric => _ = write!(words, " up to {maximum}"),
                _ => {}
            }
            if types.has(Types::STRING) {
                words.push_str(&counted(rule.min_length, rule.max_length, "character"));
            }
            if types.has(Types::ARRAY) {
                words.push_str(&counted(rule.min_items, rule.max_items, "item"));
            }
            return words;
        }
        if depth < DEEP_ENOUGH {
            if let Some(any) = rule.any.first() {
                return self.words_of_any(any, depth);
            }
            if let Some(id) = rule.all.first() {
                return self.words(*id, depth + 1);
            }
        }
        if rule.properties.is_empty() { "another value".to_owned() } else { "an object".to_owned() }
    }

    fn words_of_any(&self, any: &[usize], depth: usize) -> String {
        let mut words: Vec<String> = any.iter().map(|id| self.words(*id, depth + 1)).collect();
        words.dedup();
        list(&words.iter().map(String::as_str).collect::<Vec<_>>(), "or")
    }
}

fn is_of(types: Types, value: &Value) -> bool {
    types.has(match value {
        Value::Null => Types::NULL,
        Value::Bool(_) => Types::BOOLEAN,
        Value::Number(number) if number.is_f64() => Types::NUMBER,
        Value::Number(_) => Types(Types::INTEGER.0 | Types::NUMBER.0),
        Value::String(_) => Types::STRING,
        Value::Array(_) => Types::ARRAY,
        Value::Object(_) => Types::OBJECT,
    })
}

fn within(length: usize, minimum: Option<u64>, maximum: Option<u64>) -> bool {
    let length = length as u64;
    minimum.is_none_or(|minimum| length >= minimum) && maximum.is_none_or(|maximum| length <= maximum)
}

fn counted(minimum: Option<u64>, maximum: Option<u64>, unit: &str) -> String {
    let units = |count: u64| if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") };
    match (minimum, maximum) {
        (Some(minimum), Some(maximum)) if minimum == maximum => format!(" of {}", units(minimum)),
        (Some(minimum), Some(maximum)) => format!(" of {minimum} to {}", units(maximum)),
        (Some(0) | None, None) => String::new(),
        (Some(minimum), None) => format!(" of at least {}", units(minimum)),
        (None, Some(maximum)) => format!(" of at most {}", units(maximum)),
    }
}

fn list(words: &[&str], last: &str) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., end] => format!("{} {last} {end}", most.join(", ")),
    }
}

/// A value as it is told in an error: short, and never a whole table.
pub(crate) fn found(value: &Value) -> String {
    const LONGEST: usize = 40;
    match value {
        Value::Array(items) => {
            counted(Some(items.len() as u64), Some(items.len() as u64), "item").replacen(" of", "an array of", 1)
        }
        Value::Object(object) => match object.keys().next() {
            Some(key) if object.len() == 1 => format!("an object with {key:?}"),
            Some(key) => format!("an object with {key:?} and {} more", object.len() - 1),
            None => "an empty object".to_owned(),
        },
        simple => {
            let text = simple.to_string();
            match text.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}
