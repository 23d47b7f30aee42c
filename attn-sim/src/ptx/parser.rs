//! A module: its directives, variables and the heads of functions.

use std::collections::HashMap;

use super::ast::{Bounds, Function, Module, Param, RegId, Register, Space, Symbol, Variable};
use super::body::Body;
use super::constant;
use super::cursor::Cursor;
use super::error::{ParseError, ParseErrorKind, Position};
use super::lexer::{Token, tokens};
use super::scope::{Name, Scopes};
use super::variable;

impl Module {
    /// Parses the text of a module.
    ///
    /// # Errors
    /// The first place where the text is not PTX, or uses a form that is not supported.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        let mut parser = Parser { c: Cursor::new(tokens(text)?), module: Module::default(), globals: HashMap::new() };
        while parser.c.peek() != Token::End {
            parser.item()?;
        }
        Ok(parser.module)
    }
}

/// Words before a declaration that say how it links.
const LINKING: &[&str] = &["visible", "weak", "extern", "common"];

/// What the parts of the parser share.
pub(super) struct Parser<'a> {
    pub(super) c: Cursor<'a>,
    pub(super) module: Module,
    /// Names of module scope.
    pub(super) globals: HashMap<&'a str, Symbol>,
}

/// The space of a directive that declares variables.
pub(super) fn space(word: &str) -> Option<Space> {
    Some(match word {
        "global" => Space::Global,
        "const" => Space::Const,
        "shared" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    /// The error that a name is declared a second time, at `at`.
    pub(super) fn duplicate(&self, name: &str, at: Position) -> ParseError {
        ParseError { at, kind: ParseErrorKind::Duplicate(name.into()) }
    }

    fn item(&mut self) -> Result<(), ParseError> {
        if self.c.eat(";") {
            return Ok(());
        }
        let is_extern = self.linking();
        let Token::Dot(word) = self.c.peek() else { return Err(self.c.expected("a directive")) };
        if let Some(space) = space(word).filter(|s| *s != Space::Param) {
            self.c.next();
            return self.variables(space, is_extern);
        }
        match word {
            "version" => self.version(),
            "target" => self.target(),
            "address_size" => self.address_size(),
            "entry" | "func" => self.function(is_extern),
            "file" => self.file(),
            "section" => self.section(),
            "alias" => self.alias(),
            "pragma" => self.c.skip_statement(),
            _ => Err(self.c.error(ParseErrorKind::Unsupported(format!("the directive .{word}")))),
        }
    }

    /// Takes `.visible`, `.weak`, `.common` and `.extern`; whether the last was there.
    pub(super) fn linking(&mut self) -> bool {
        let mut is_extern = false;
        while let Token::Dot(word) = self.c.peek() {
            if !LINKING.contains(&word) {
                break;
            }
            is_extern |= word == "extern";
            self.c.next();
        }
        is_extern
    }

    fn version(&mut self) -> Result<(), ParseError> {
        self.c.next();
        // The lexer reads `8.6` as a decimal fraction; its digits stand for two numbers.
        let Token::Float64(bits) = self.c.peek() else { return Err(self.c.expected("a version such as 8.6")) };
        let tenths = (f64::from_bits(bits) * 10.0).round();
        if !(10.0..1000.0).contains(&tenths) {
            return Err(self.c.expected("a version such as 8.6"));
        }
        self.c.next();
        self.module.version = (tenths as u32 / 10, tenths as u32 % 10);
        Ok(())
    }

    fn target(&mut self) -> Result<(), ParseError> {
        self.c.next();
        self.module.target.push(self.c.word("an architecture")?.into());
        while self.c.eat(",") {
            self.module.target.push(self.c.word("a target option")?.into());
        }
        Ok(())
    }

    fn address_size(&mut self) -> Result<(), ParseError> {
        self.c.next();
        constant::integer_in(&mut self.c, ".address_size", 64, 64, "64").map(drop)
    }

    /// `.file 1 "path"{, timestamp, size}`
    fn file(&mut self) -> Result<(), ParseError> {
        self.c.next();
        constant::integer(&mut self.c)?;
        if !matches!(self.c.next(), Token::Text(_)) {
            return Err(self.c.expected("a file name"));
        }
        while self.c.eat(",") {
            constant::integer(&mut self.c)?;
        }
        Ok(())
    }

    /// `.section .name { debug data }`
    pub(super) fn section(&mut self) -> Result<(), ParseError> {
        self.c.next();
        if !matches!(self.c.next(), Token::Dot(_) | Token::Word(_)) {
            return Err(self.c.expected("a section's name"));
        }
        self.c.skip_group("{", "}")
    }

    fn alias(&mut self) -> Result<(), ParseError> {
        self.c.next();
        let name = self.c.word("a function's name")?;
        self.c.expect(",")?;
        let target = self.c.word("a function's name")?;
        let Some(symbol @ Symbol::Function(_)) = self.globals.get(target).copied() else {
            return Err(self.c.error(ParseErrorKind::Unknown(target.into())));
        };
        self.globals.insert(name, symbol);
        self.c.expect(";")
    }

    /// The rest of a variable declaration after its space.
    fn variables(&mut self, space: Space, is_extern: bool) -> Result<(), ParseError> {
        if matches!(self.c.peek(), Token::Sign("[")) {
            self.c.skip_group("[", "]")?; // `.const[3]`, a bank of old
        }
        let shape = variable::shape(&mut self.c)?;
        loop {
            let at = self.c.position();
            let globals = &self.globals;
            let mut find = |name: &str| globals.get(name).copied();
            let (name, variable) = variable::declarator(&mut self.c, space, shape, is_extern, &mut find)?;
            self.declare_global(name, variable, at)?;
            if !self.c.eat(",") {
                return self.c.expect(";");
            }
        }
    }

    fn declare_global(&mut self, name: &'a str, variable: Variable, at: Position) -> Result<(), ParseError> {
        match self.globals.get(name).copied() {
            None => {
                self.globals.insert(name, Symbol::Variable(self.module.variables.len()));
                self.module.variables.push(variable);
            }
            // An `.extern` declaration, and then the definition or another declaration.
            Some(Symbol::Variable(i)) if self.module.variables[i].is_extern => {
                if !variable.is_extern {
                    self.module.variables[i] = variable;
                }
            }
            Some(_) if variable.is_extern => {}
            Some(_) => return Err(self.duplicate(name, at)),
        }
        Ok(())
    }

    fn function(&mut self, is_extern: bool) -> Result<(), ParseError> {
        let entry = self.c.eat_dot("entry");
        if !entry {
            self.c.next();
        }
        if matches!(self.c.peek(), Token::Dot("attribute")) {
            self.c.next();
            self.c.skip_group("(", ")")?;
        }
        let mut scopes = Scopes::new();
        let returns = self.params(&mut scopes, Symbol::Return)?;
        let at = self.c.position();
        let name = self.c.word("a function's name")?;
        let params = self.params(&mut scopes, Symbol::Param)?;
        let bounds = self.bounds()?;
        let declared_only = !self.c.is("{");
        let head = Function {
            name: name.into(),
            entry,
            params,
            returns,
            bounds,
            declared_only,
            line: at.line,
            ..Function::default()
        };
        let index = self.declare_function(name, head, at)?;
        if declared_only {
            return self.c.expect(";");
        }
        if is_extern {
            return Err(self.c.expected("; after an .extern function"));
        }
        Body::parse(self, scopes, index)
    }

    /// Puts a function into the module, over an earlier declaration of it.
    fn declare_function(&mut self, name: &'a str, head: Function, at: Position) -> Result<usize, ParseError> {
        match self.globals.get(name).copied() {
            None => {
                let index = self.module.functions.len();
                self.globals.insert(name, Symbol::Function(index));
                self.module.functions.push(head);
                Ok(index)
            }
            Some(Symbol::Function(index)) if head.declared_only => Ok(index),
            Some(Symbol::Function(index)) if self.module.functions[index].declared_only => {
                self.module.functions[index] = head;
                Ok(index)
            }
            Some(_) => Err(self.duplicate(name, at)),
        }
    }

    /// `(.param .b64 a, .reg .b32 b)`; nothing if no parenthesis comes.
    fn params(&mut self, scopes: &mut Scopes<'a>, symbol: fn(usize) -> Symbol) -> Result<Vec<Param>, ParseError> {
        let mut params = Vec::new();
        if !self.c.eat("(") || self.c.eat(")") {
            return Ok(params);
        }
        loop {
            let at = self.c.position();
            let (name, param) = self.param(scopes)?;
            let what = match param.register {
                Some(register) => Name::Reg(register),
                None => Name::Symbol(symbol(params.len())),
            };
            if name != "_" && !scopes.declare(name, what) {
                return Err(self.duplicate(name, at));
            }
            params.push(param);
            if !self.c.eat(",") {
                self.c.expect(")")?;
                return Ok(params);
            }
        }
    }

    fn param(&mut self, scopes: &mut Scopes<'a>) -> Result<(&'a str, Param), ParseError> {
        let in_register = self.c.eat_dot("reg");
        if !in_register && !self.c.eat_dot("param") {
            return Err(self.c.expected(".param or .reg"));
        }
        let shape = variable::shape(&mut self.c)?;
        self.pointer_attributes()?;
        let name = self.c.word("a parameter's name")?;
        let mut dims = variable::dimensions(&mut self.c)?;
        dims.push(Some(shape.components));
        // A parameter without a size, the last of a function with variable arguments, holds nothing by itself.
        let elements = variable::count(&self.c, &dims)?.unwrap_or(0);
        let register = in_register.then(|| {
            scopes.registers.push(Register { name: name.into(), ty: shape.ty });
            RegId(scopes.registers.len() as u32 - 1)
        });
        let bytes = elements.saturating_mul(shape.ty.bytes());
        Ok((name, Param { name: name.into(), ty: shape.ty, align: shape.align(), bytes, register }))
    }

    /// `.ptr .global .align 16`, which says what a parameter points to.
    fn pointer_attributes(&mut self) -> Result<(), ParseError> {
        if !self.c.eat_dot("ptr") {
            return Ok(());
        }
        if let Token::Dot(word) = self.c.peek()
            && space(word).is_some()
        {
            self.c.next();
        }
        if self.c.eat_dot("align") {
            variable::alignment(&mut self.c)?;
        }
        Ok(())
    }

    /// The performance directives between a function's head and its body.
    fn bounds(&mut self) -> Result<Bounds, ParseError> {
        let mut b = Bounds::default();
        while let Token::Dot(word) = self.c.peek() {
            self.c.next();
            match word {
                "maxntid" => b.maxntid = Some(self.three()?),
                "reqntid" => b.reqntid = Some(self.three()?),
                "reqnctapercluster" => b.reqnctapercluster = Some(self.three()?),
                "minnctapersm" => b.minnctapersm = Some(self.count()?),
                "maxnctapersm" => b.maxnctapersm = Some(self.count()?),
                "maxnreg" => b.maxnreg = Some(self.count()?),
                "maxclusterrank" => b.maxclusterrank = Some(self.count()?),
                "explicitcluster" => b.explicit_cluster = true,
                "blocksareclusters" => b.blocks_are_clusters = true,
                "noreturn" | "abi_preserve_control" => {}
                "abi_preserve" => drop(self.count()?),
                "unified" | "attribute" => self.c.skip_group("(", ")")?,
                "pragma" => self.c.skip_statement()?,
                _ => return Err(self.c.error(ParseErrorKind::Unsupported(format!("the directive .{word}")))),
            }
        }
        Ok(b)
    }

    fn count(&mut self) -> Result<u32, ParseError> {
        let value = constant::integer_in(&mut self.c, "a bound", 0, i64::from(u32::MAX), "0 to 4294967295")?;
        Ok(value as u32)
    }

    /// One to three numbers; those left out are 1.
    fn three(&mut self) -> Result<[u32; 3], ParseError> {
        let mut all = [self.count()?, 1, 1];
        for value in all.iter_mut().skip(1) {
            if !self.c.eat(",") {
                break;
            }
            *value = self.count()?;
        }
        Ok(all)
    }
}
