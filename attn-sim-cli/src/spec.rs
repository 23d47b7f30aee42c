//! What a kernel is given, as text: buffers by name, then the parameters in their order.
//!
//! Statements end with a newline or `;`, a `#` begins a comment. What there is, with examples: `attn-sim/README.md`.

use attn_sim::tensor_map::Swizzle;

use crate::element::Element;

/// A spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {
    /// Buffers, in order.
    pub buffers: Vec<Buffer>,
    /// Parameters, in order.
    pub params: Vec<Value>,
}

/// A buffer in global memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// What parameters call it.
    pub name: String,
    /// What it holds.
    pub source: Source,
}

/// What a buffer holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A tensor of a safetensors file.
    File {
        /// The file.
        path: String,
        /// The tensor.
        tensor: String,
    },
    /// Numbers.
    Made {
        /// Their type.
        element: Element,
        /// Elements in each dimension, outermost first.
        shape: Vec<usize>,
        /// The numbers.
        fill: Fill,
    },
}

/// Numbers that fill a buffer.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// None: the buffer was never written.
    Unwritten,
    /// One number everywhere, as its bytes.
    Value(Vec<u8>),
    /// 0, 1, 2, ...
    Index,
    /// Standard normal.
    Normal(u64),
    /// From -1 to 1.
    Uniform(u64),
}

/// A parameter, or a member of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Bytes as they are; aligned to their number where that is a power of two up to 8.
    Bytes {
        /// The bytes.
        bytes: Vec<u8>,
        /// Alignment in a struct.
        align: usize,
    },
    /// A buffer's address plus bytes.
    Pointer {
        /// The buffer.
        buffer: String,
        /// Bytes added.
        offset: u64,
    },
    /// A tensor map.
    Map(Map),
    /// Members, each aligned to its size.
    Struct(Vec<Value>),
}

/// A tensor map's arguments as given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    /// The buffer.
    pub buffer: String,
    /// `box=`
    pub box_dim: Vec<u32>,
    /// `dims=`
    pub dims: Option<Vec<u64>>,
    /// `strides=`
    pub strides: Option<Vec<u64>>,
    /// `steps=`
    pub steps: Option<Vec<u32>>,
    /// `swizzle=`
    pub swizzle: Option<Swizzle>,
    /// `fill=nan`
    pub nan: bool,
    /// `offset=`
    pub offset: u64,
}

/// A statement that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("statement {number}, `{statement}`: {why}")]
pub struct SpecError {
    /// Which statement, from 1.
    pub number: usize,
    /// Its text.
    pub statement: String,
    /// What is wrong.
    pub why: String,
}

/// The names of swizzles.
const SWIZZLES: [(&str, Swizzle); 7] = [
    ("none", Swizzle::None),
    ("32", Swizzle::B32),
    ("64", Swizzle::B64),
    ("128", Swizzle::B128),
    ("128a32", Swizzle::B128Atom32),
    ("128a32f8", Swizzle::B128Atom32Flip8),
    ("128a64", Swizzle::B128Atom64),
];

impl Spec {
    /// Reads a spec.
    ///
    /// # Errors
    /// The first statement that is none, with the reason.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let mut spec = Spec::default();
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or(""));
        let statements = lines.flat_map(|line| line.split(';')).map(str::trim).filter(|s| !s.is_empty());
        for (i, statement) in statements.enumerate() {
            spec.add(statement).map_err(|why| SpecError { number: i + 1, statement: statement.to_owned(), why })?;
        }
        Ok(spec)
    }

    fn add(&mut self, statement: &str) -> Result<(), String> {
        let first = statement.split_whitespace().next().unwrap_or("");
        let is_value = matches!(first, "ptr" | "map" | "struct" | "bytes") || Element::parse(first).is_some();
        match statement.split_once('=').filter(|_| !is_value) {
            Some((name, source)) => {
                let name = name.trim();
                if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                    return Err(format!("`{name}` is no name of a buffer: letters, digits and `_`"));
                }
                if self.buffers.iter().any(|buffer| buffer.name == name) {
                    return Err(format!("there is a buffer `{name}` already"));
                }
                self.buffers.push(Buffer { name: name.to_owned(), source: source_of(source.trim())? });
            }
            None => {
                let value = value_of(statement)?;
                self.known(&value)?;
                self.params.push(value);
            }
        }
        Ok(())
    }

    /// Whether every buffer that a value names is there.
    fn known(&self, value: &Value) -> Result<(), String> {
        let name = match value {
            Value::Pointer { buffer, .. } => buffer,
            Value::Map(map) => &map.buffer,
            Value::Struct(members) => return members.iter().try_for_each(|member| self.known(member)),
            Value::Bytes { .. } => return Ok(()),
        };
        if self.buffers.iter().any(|buffer| buffer.name == *name) {
            return Ok(());
        }
        let have: Vec<&str> = self.buffers.iter().map(|buffer| buffer.name.as_str()).collect();
        Err(format!("there is no buffer `{name}` before it; there are: {}", have.join(", ")))
    }
}

fn source_of(text: &str) -> Result<Source, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if let ["file", path, tensor] = words[..] {
        return Ok(Source::File { path: path.to_owned(), tensor: tensor.to_owned() });
    }
    let wrong = || "expected `file PATH TENSOR` or `TYPE[N,..] FILL`".to_owned();
    let (kind, fill) = text.split_once(']').ok_or_else(wrong)?;
    let (kind, shape) = kind.split_once('[').ok_or_else(wrong)?;
    let element = element_of(kind.trim())?;
    let shape = list(shape, "the shape")?;
    if shape.contains(&0) {
        return Err("every extent of a shape is at least 1".into());
    }
    let words: Vec<&str> = fill.split_whitespace().collect();
    let seed = |text: &str| text.parse().map_err(|_| format!("`{text}` is no seed: an unsigned number"));
    let fill = match words[..] {
        [] => Fill::Unwritten,
        ["zero"] => Fill::Value(vec![0; element.bytes()]),
        ["value", number] => Fill::Value(number_of(element, number)?),
        ["index"] => Fill::Index,
        ["normal"] => Fill::Normal(0),
        ["normal", text] => Fill::Normal(seed(text)?),
        ["uniform"] => Fill::Uniform(0),
        ["uniform", text] => Fill::Uniform(seed(text)?),
        _ => {
            let fill = fill.trim();
            return Err(format!("`{fill}` is no fill: zero, value X, index, normal [SEED], uniform [SEED]"));
        }
    };
    if element.bytes() == 1 && element.encode(1.0).is_none() && !matches!(fill, Fill::Unwritten | Fill::Value(_)) {
        return Err(format!("{} takes `zero`, `value` in hexadecimal, or a file's tensor", element.name()));
    }
    Ok(Source::Made { element, shape, fill })
}

fn value_of(text: &str) -> Result<Value, String> {
    let (kind, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    match kind {
        "ptr" => pointer_of(rest),
        "map" => map_of(rest).map(Value::Map),
        "struct" => rest.split(',').map(|member| value_of(member.trim())).collect::<Result<_, _>>().map(Value::Struct),
        "bytes" => {
            let digits: Vec<char> = rest.chars().filter(|c| !c.is_whitespace()).collect();
            let byte = |pair: &[char]| match pair {
                [high, low] => Some((high.to_digit(16)? * 16 + low.to_digit(16)?) as u8),
                _ => None,
            };
            let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
            let bytes = bytes.ok_or_else(|| format!("`{rest}` is no even number of hexadecimal digits"))?;
            Ok(Value::Bytes { bytes, align: 1 })
        }
        _ => {
            let element = element_of(kind)?;
            Ok(Value::Bytes { bytes: number_of(element, rest)?, align: element.bytes() })
        }
    }
}

fn pointer_of(text: &str) -> Result<Value, String> {
    if text == "null" {
        return Ok(Value::Bytes { bytes: vec![0; 8], align: 8 });
    }
    let (buffer, offset) = text.split_once('+').unwrap_or((text, "0"));
    let offset = offset.trim().parse().map_err(|_| format!("`{offset}` is no number of bytes"))?;
    Ok(Value::Pointer { buffer: buffer.trim().to_owned(), offset })
}

fn map_of(text: &str) -> Result<Map, String> {
    let mut words = text.split_whitespace();
    let mut map = Map { buffer: words.next().unwrap_or("").to_owned(), ..Map::default() };
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "box" => map.box_dim = list(value, key)?,
            "dims" => map.dims = Some(list(value, key)?),
            "strides" => map.strides = Some(list(value, key)?),
            "steps" => map.steps = Some(list(value, key)?),
            "swizzle" => {
                let found = SWIZZLES.iter().find(|(name, _)| *name == value).map(|(_, swizzle)| *swizzle);
                let names = || SWIZZLES.map(|(name, _)| name).join(", ");
                map.swizzle = Some(found.ok_or_else(|| format!("`{value}` is no swizzle: {}", names()))?);
            }
            "fill" => {
                map.nan = match value {
                    "zero" => false,
                    "nan" => true,
                    _ => return Err(format!("`{value}` is no fill: zero, nan")),
                }
            }
            "offset" => map.offset = value.parse().map_err(|_| format!("`{value}` is no number of bytes"))?,
            _ => return Err(format!("`{key}` is none of box, dims, strides, steps, swizzle, fill, offset")),
        }
    }
    if map.box_dim.is_empty() { Err("a map needs `box=`".into()) } else { Ok(map) }
}

fn element_of(name: &str) -> Result<Element, String> {
    Element::parse(name)
        .ok_or_else(|| format!("`{name}` is no type ({}), nor ptr, map, struct or bytes", Element::names()))
}

fn number_of(element: Element, text: &str) -> Result<Vec<u8>, String> {
    element.read(text).ok_or_else(|| format!("`{text}` is no {}", element.name()))
}

fn list<T: std::str::FromStr>(text: &str, what: &str) -> Result<Vec<T>, String> {
    let number = |item: &str| item.trim().parse().map_err(|_| format!("`{text}` of {what} is no list of numbers"));
    text.split(',').map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_is_read() {
        let spec = Spec::parse(
            "q = file a.safetensors x.q # the queries\n k=bf16[2, 64] normal 7; o = f32[8]\n\
             ptr q+256\n u32 0x10; f32 -0.5; ptr null\n\
             map k box=64,2 swizzle=128 fill=nan dims=64,2 strides=128 steps=1,1 offset=16\n\
             struct ptr o, u16 3, u64 1\n bytes 00 ff",
        )
        .expect("valid");
        assert_eq!(spec.buffers.len(), 3);
        assert_eq!(spec.buffers[0].source, Source::File { path: "a.safetensors".into(), tensor: "x.q".into() });
        assert_eq!(
            spec.buffers[1].source,
            Source::Made { element: Element::Bf16, shape: vec![2, 64], fill: Fill::Normal(7) }
        );
        assert_eq!(spec.params[0], Value::Pointer { buffer: "q".into(), offset: 256 });
        assert_eq!(spec.params[1], Value::Bytes { bytes: vec![16, 0, 0, 0], align: 4 });
        let Value::Map(map) = &spec.params[4] else { panic!("{:?}", spec.params[4]) };
        assert_eq!((map.swizzle, map.nan, map.offset), (Some(Swizzle::B128), true, 16));
        assert_eq!((map.dims.as_deref(), map.strides.as_deref()), (Some(&[64, 2][..]), Some(&[128][..])));
        let Value::Struct(members) = &spec.params[5] else { panic!("{:?}", spec.params[5]) };
        assert_eq!(members.len(), 3);
        assert_eq!(spec.params[6], Value::Bytes { bytes: vec![0, 255], align: 1 });
    }

    #[test]
    fn wrong_statements_say_what_is_wrong() {
        for (text, part) in [
            ("o = f32[8]; o = f32[9]", "already"),
            ("ptr o", "no buffer `o`"),
            ("struct u32 1, ptr o", "no buffer `o`"),
            ("u32 -1", "`-1` is no u32"),
            ("o = f33[8]", "no type (u8,"),
            ("o = f32[8", "TYPE[N,..]"),
            ("o = f32[0]", "at least 1"),
            ("o = f32[8] zeros", "no fill"),
            ("o = e4m3[8] normal", "hexadecimal"),
            ("a b = f32[8]", "no name"),
            ("o = f32[8]\nmap o swizzle=128", "needs `box=`"),
            ("o = f32[8]\nmap o box=8 swizzle=256", "no swizzle"),
            ("bytes 0", "hexadecimal"),
            ("pointer o", "`pointer` is no type"),
        ] {
            let error = Spec::parse(text).expect_err(text);
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
        assert_eq!(Spec::parse("u32 1;; \n# nothing\n u32 x").expect_err("x").number, 2);
    }
}
