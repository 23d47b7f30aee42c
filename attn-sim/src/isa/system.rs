//! Functions that the driver defines and no module does: `__assertfail`, which `assert` of CUDA C++ calls, and `vprintf`.
//!
//! [`machine::inline`](crate::machine::inline) makes an instruction `call.NAME result, arguments..` of their calls.

use super::Decoded;
use crate::counters::Class;
use crate::machine::Context;
use crate::machine::decode::{Decode, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::ptx::ScalarType;
use crate::report::Stop;

/// Whether calls of an undefined function of this name are understood.
pub fn is_system(name: &str) -> bool {
    matches!(name, "__assertfail" | "vprintf")
}

/// Decodes a call of a system function.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    match (cx.modifiers().next(), cx.operands()) {
        (Some("__assertfail"), 5) => Ok(Box::new(AssertFail {
            texts: [cx.source(0, ScalarType::U64)?, cx.source(1, ScalarType::U64)?],
            line: cx.source(2, ScalarType::U32)?,
        })),
        (Some("vprintf"), 3) => Ok(Box::new(Print {
            count: cx.dest(0)?,
            format: cx.source(1, ScalarType::U64)?,
            arguments: cx.source(2, ScalarType::U64)?,
        })),
        _ => Err(cx.unsupported("no system function of this name with so many parameters")),
    }
}

/// The text at a lane's generic address, up to its zero.
fn text(cx: &mut Context<'_>, lane: usize, address: u64) -> Result<Vec<u8>, Stop> {
    /// No text of a program is longer; without its zero, one would be read up to the end of its allocation.
    const LONGEST: u64 = 1 << 16;
    let mut bytes = Vec::new();
    for at in address..address.saturating_add(LONGEST) {
        let mut byte = [0];
        cx.load(lane, Space::Generic, at, 1, &mut byte)?;
        if byte == [0] {
            break;
        }
        bytes.extend(byte);
    }
    Ok(bytes)
}

/// `__assertfail(condition, file, line, function, size)`: the kernel ends.
#[derive(Debug)]
struct AssertFail {
    texts: [Source; 2],
    line: Source,
}

impl Execute for AssertFail {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let lane = cx.first_lane();
        let [condition, file] = self.texts.each_ref().map(|source| cx.u64(source)[lane]);
        let line = cx.u32(&self.line)[lane];
        let [condition, file] = [text(cx, lane, condition)?, text(cx, lane, file)?];
        let says = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let message = format!("assertion `{}` of {}:{line} fails in lane {lane}", says(&condition), says(&file));
        let at = cx.m.site(cx.warp, cx.op);
        Err(Stop::Assertion { kernel: cx.m.program.name.clone(), at, message })
    }

    fn class(&self) -> Class {
        Class::Control
    }
}

/// `vprintf(format, arguments)`: what it prints goes to standard output, lane by lane.
#[derive(Debug)]
struct Print {
    count: Option<Reg>,
    format: Source,
    arguments: Source,
}

impl Execute for Print {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (formats, places) = (cx.u64(&self.format), cx.u64(&self.arguments));
        let mut counts = [0; crate::machine::decode::LANES];
        for lane in cx.lanes() {
            let format = text(cx, lane, formats[lane])?;
            let (line, count) = print(cx, lane, &format, places[lane])?;
            print!("{}", String::from_utf8_lossy(&line));
            counts[lane] = count;
        }
        cx.set_u32(self.count, &counts);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Other
    }
}

/// A conversion of a format: `%-08.3lld`.
#[derive(Default)]
struct Conversion {
    left: bool,
    zeros: bool,
    sign: Option<char>,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    long: bool,
    letter: u8,
}

impl Conversion {
    /// Reads one behind its `%`; gives what is left.
    fn parse(mut rest: &[u8]) -> Option<(Self, &[u8])> {
        let mut made = Conversion::default();
        while let [flag @ (b'-' | b'0' | b'+' | b' ' | b'#'), tail @ ..] = rest {
            match flag {
                b'-' => made.left = true,
                b'0' => made.zeros = true,
                b'#' => made.alternate = true,
                sign => made.sign = made.sign.filter(|s| *s == '+').or(Some(char::from(*sign))),
            }
            rest = tail;
        }
        let number = |rest: &mut &[u8]| {
            let mut n = 0usize;
            while let [digit @ b'0'..=b'9', tail @ ..] = *rest {
                (n, *rest) = (n.saturating_mul(10).saturating_add(usize::from(digit - b'0')).min(4096), tail);
            }
            n
        };
        made.width = number(&mut rest);
        if let [b'.', tail @ ..] = rest {
            rest = tail;
            made.precision = Some(number(&mut rest));
        }
        while let [length @ (b'l' | b'h' | b'z' | b'j' | b't'), tail @ ..] = rest {
            made.long |= *length != b'h';
            rest = tail;
        }
        let (letter, rest) = rest.split_first()?;
        made.letter = *letter;
        Some((made, rest))
    }

    /// Bytes of its argument.
    fn bytes(&self) -> u64 {
        match self.letter {
            b'd' | b'i' | b'u' | b'x' | b'X' | b'o' | b'c' if !self.long => 4,
            _ => 8,
        }
    }

    /// Its argument's bits as text; `None` for a letter that is no conversion.
    fn text(&self, bits: u64) -> Option<String> {
        let signed = if self.long { bits as i64 } else { i64::from(bits as i32) };
        let float = f64::from_bits(bits);
        let sign = |negative: bool| if negative { "-".into() } else { self.sign.map(String::from).unwrap_or_default() };
        let digits = |text: String| format!("{text:0>width$}", width = self.precision.unwrap_or(1));
        let prefix = |text: &str| if self.alternate && bits != 0 { text.to_owned() } else { String::new() };
        let (head, body, number) = match self.letter {
            b'd' | b'i' => (sign(signed < 0), digits(signed.unsigned_abs().to_string()), self.precision.is_none()),
            b'u' => (String::new(), digits(bits.to_string()), self.precision.is_none()),
            b'x' => (prefix("0x"), digits(format!("{bits:x}")), self.precision.is_none()),
            b'X' => (prefix("0X"), digits(format!("{bits:X}")), self.precision.is_none()),
            b'o' => (prefix("0"), digits(format!("{bits:o}")), self.precision.is_none()),
            b'p' => ("0x".into(), format!("{bits:x}"), true),
            b'c' => (String::new(), char::from(bits as u8).to_string(), false),
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' => {
                (sign(float.is_sign_negative()), self.float(float.abs()), float.is_finite())
            }
            _ => return None,
        };
        let body = if self.letter.is_ascii_uppercase() { body.to_uppercase() } else { body };
        let fill = self.width.saturating_sub(head.len() + body.chars().count());
        Some(match (self.left, self.zeros && number) {
            (true, _) => format!("{head}{body}{:fill$}", ""),
            (_, true) => format!("{head}{}{body}", "0".repeat(fill)),
            _ => format!("{:fill$}{head}{body}", ""),
        })
    }

    /// A float without its sign.
    fn float(&self, value: f64) -> String {
        if !value.is_finite() {
            return if value.is_nan() { "nan".into() } else { "inf".into() };
        }
        let precision = self.precision.unwrap_or(6);
        let scientific = |digits: usize| {
            let text = format!("{value:.digits$e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            (mantissa.to_owned(), exponent.parse::<i32>().unwrap_or(0))
        };
        let with_exponent =
            |mantissa: &str, e: i32| format!("{mantissa}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs());
        let short = |text: String| {
            let cut = text.contains('.') && !self.alternate;
            if cut { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        };
        match self.letter.to_ascii_lowercase() {
            b'f' => format!("{value:.precision$}"),
            b'e' => {
                let (mantissa, exponent) = scientific(precision);
                with_exponent(&mantissa, exponent)
            }
            _ => {
                let significant = precision.max(1);
                let (mantissa, exponent) = scientific(significant - 1);
                if exponent < -4 || exponent >= significant as i32 {
                    return with_exponent(&short(mantissa), exponent);
                }
                let decimals = (significant as i32 - 1 - exponent) as usize;
                short(format!("{value:.decimals$}"))
            }
        }
    }
}

/// A format with a lane's arguments, which lie one behind the other as C aligns them, and how many of them there were.
fn print(cx: &mut Context<'_>, lane: usize, format: &[u8], mut at: u64) -> Result<(Vec<u8>, u32), Stop> {
    let (mut line, mut count, mut rest) = (Vec::new(), 0, format);
    while let Some(percent) = rest.iter().position(|b| *b == b'%') {
        line.extend(&rest[..percent]);
        rest = &rest[percent + 1..];
        if let [b'%', tail @ ..] = rest {
            line.push(b'%');
            rest = tail;
            continue;
        }
        let Some((conversion, tail)) = Conversion::parse(rest) else { break };
        let bytes = conversion.bytes();
        at = at.next_multiple_of(bytes);
        let mut value = [0; 8];
        cx.load(lane, Space::Generic, at, bytes, &mut value[..bytes as usize])?;
        let bits = u64::from_le_bytes(value);
        let said = match conversion.letter {
            b's' => {
                let mut text = text(cx, lane, bits)?;
                text.truncate(conversion.precision.unwrap_or(usize::MAX));
                let fill = vec![b' '; conversion.width.saturating_sub(text.len())];
                if conversion.left { [text, fill].concat() } else { [fill, text].concat() }
            }
            letter => match conversion.text(bits) {
                Some(text) => text.into_bytes(),
                None => return Err(cx.unsupported(format!("the conversion %{} of a format", char::from(letter)))),
            },
        };
        line.extend(said);
        (at, count, rest) = (at + bytes, count + 1, tail);
    }
    line.extend(rest);
    Ok((line, count))
}

#[cfg(test)]
mod tests {
    use super::Conversion;
    use crate::isa::testing::try_run;
    use crate::report::Stop;

    fn said(format: &str, bits: u64) -> String {
        let (conversion, rest) = Conversion::parse(format.as_bytes()).expect("a conversion");
        assert!(rest.is_empty(), "{format}");
        conversion.text(bits).expect("a known letter")
    }

    #[test]
    fn conversions_are_those_of_c() {
        let f = |x: f64| x.to_bits();
        let rows = [
            ("d", 0xffff_ffff, "-1"),
            ("5d", 42, "   42"),
            ("-5d", 42, "42   "),
            ("+05d", 42, "+0042"),
            (".3d", 7, "007"),
            ("lld", u64::MAX, "-1"),
            ("llu", u64::MAX, "18446744073709551615"),
            ("#x", 255, "0xff"),
            ("08X", 0xbeef, "0000BEEF"),
            ("c", 65, "A"),
            ("f", f(1.5), "1.500000"),
            ("8.2f", f(-1.5), "   -1.50"),
            ("e", f(12345.678), "1.234568e+04"),
            ("g", f(0.0001), "0.0001"),
            ("g", f(1e-5), "1e-05"),
            ("g", f(100000.0), "100000"),
            ("g", f(1e6), "1e+06"),
            ("g", f(0.1 + 0.2), "0.3"),
            ("5g", f(f64::INFINITY), "  inf"),
            ("f", f(-f64::INFINITY), "-inf"),
        ];
        for (format, bits, expected) in rows {
            assert_eq!(said(format, bits), expected, "%{format}");
        }
    }

    const DECLARED: &str =
        ".extern .func __assertfail (.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);
        .extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);
        .global .align 1 .b8 says[6] = {120, 32, 60, 32, 49, 0}; .global .align 1 .b8 name[4] = {97, 46, 99, 0};
        .global .align 1 .b8 line[12] = {108, 97, 110, 101, 32, 37, 100, 32, 37, 102, 10, 0};";

    #[test]
    fn an_assertion_stops_where_it_fails_and_only_there() {
        let body = |limit: u32| {
            format!(
                "setp.lt.u32 %p0, %lane, {limit}; @%p0 bra FINE;
                {{ .param .b64 a; .param .b64 b; .param .b32 c; .param .b64 d; .param .b64 e;
                mov.b64 %rd0, says; cvta.global.u64 %rd0, %rd0; st.param.b64 [a], %rd0; cvta.global.u64 %rd1, name;
                st.param.b64 [b], %rd1; st.param.b32 [c], 402; st.param.b64 [d], %rd1; st.param.b64 [e], 1;
                call.uni __assertfail, (a, b, c, d, e); }} FINE: mov.b64 %out, 1;"
            )
        };
        assert_eq!(try_run(DECLARED, &body(32), &[]).expect("no assertion fails").out[31], 1);
        match try_run(DECLARED, &body(30), &[]) {
            Err(crate::Error::Failed(failure)) => match *failure.stop {
                Stop::Assertion { message, .. } => assert_eq!(message, "assertion `x < 1` of a.c:402 fails in lane 30"),
                other => panic!("{other}"),
            },
            _ => panic!("the assertion did not stop"),
        }
    }

    #[test]
    fn a_print_says_how_many_arguments_it_had() {
        let body = ".local .align 8 .b8 depot[16]; { .param .b64 f; .param .b64 a; .param .b32 r;
            st.local.b32 [depot], %lane; st.local.b64 [depot+8], 0d3FF8000000000000;
            cvta.global.u64 %rd0, line; cvta.local.u64 %rd1, depot; st.param.b64 [f], %rd0; st.param.b64 [a], %rd1;
            call.uni (r), vprintf, (f, a); ld.param.b32 %r0, [r]; } cvt.u64.u32 %out, %r0;";
        let ran = try_run(DECLARED, body, &[]).expect("a print");
        assert!(ran.run.findings.is_empty() && ran.out[5] == 2, "{:?}", ran.run.findings);
    }

    #[test]
    fn other_functions_of_no_module_are_refused() {
        let head = ".extern .func (.param .b64 r) malloc (.param .b64 n);";
        let body = "{ .param .b64 n; .param .b64 r; st.param.b64 [n], 8; call.uni (r), malloc, (n); }";
        assert!(matches!(try_run(head, body, &[]), Err(crate::Error::Unsupported(e)) if e.reason.contains("malloc")));
    }
}
