//! The body of a function: statements, scopes, labels and tables.

use super::ast::{Function, Guard, Instruction, Operand, RegId, Space, Symbol};
use super::constant;
use super::error::{ParseError, ParseErrorKind, Position};
use super::lexer::Token;
use super::parser::{self, Parser};
use super::scope::{Name, Scopes, Target};
use super::variable;

/// Most registers of one `name<N>` declaration, and most components of one vector register.
const MAX_FAMILY: i64 = 1 << 24;

/// A body being read.
pub(super) struct Body<'p, 'a> {
    pub(super) p: &'p mut Parser<'a>,
    pub(super) scopes: Scopes<'a>,
    pub(super) function: Function,
    /// Where each label was first named, for errors.
    pub(super) label_uses: Vec<(usize, &'a str, Position)>,
}

impl<'p, 'a> Body<'p, 'a> {
    /// Reads the body of function `index`, whose parameters are in `scopes`.
    pub(super) fn parse(p: &'p mut Parser<'a>, scopes: Scopes<'a>, index: usize) -> Result<(), ParseError> {
        let function = p.module.functions[index].clone();
        let mut body = Body { p, scopes, function, label_uses: Vec::new() };
        body.p.c.expect("{")?;
        body.statements()?;
        body.resolve_labels()?;
        let Body { p, scopes, mut function, .. } = body;
        function.registers = scopes.registers;
        p.module.functions[index] = function;
        Ok(())
    }

    /// Statements up to and with the brace that closes the function.
    fn statements(&mut self) -> Result<(), ParseError> {
        loop {
            match self.p.c.peek() {
                Token::Sign("}") => {
                    self.p.c.next();
                    if self.scopes.depth() == 1 {
                        return Ok(());
                    }
                    self.scopes.leave();
                }
                Token::Sign("{") => {
                    self.p.c.next();
                    self.scopes.enter();
                }
                Token::Sign(";") => drop(self.p.c.next()),
                Token::Sign("@") | Token::Word(_) => self.labelled_or_instruction()?,
                Token::Dot(word) => self.directive(word)?,
                _ => return Err(self.p.c.expected("a statement")),
            }
        }
    }

    fn directive(&mut self, word: &'a str) -> Result<(), ParseError> {
        match word {
            "reg" => self.registers(),
            "loc" => self.location(),
            "pragma" => self.p.c.skip_statement(),
            "section" => self.p.section(),
            _ => self.variables(),
        }
    }

    /// `.reg .b32 a, b<4>;`
    fn registers(&mut self) -> Result<(), ParseError> {
        self.p.c.next();
        let shape = variable::shape(&mut self.p.c)?;
        let components = shape.components as usize;
        if components > 4 {
            return Err(self.p.c.error(ParseErrorKind::Unsupported("a register of more than 4 components".into())));
        }
        loop {
            let at = self.p.c.position();
            let name = self.p.c.word("a register's name")?;
            let fresh = if self.p.c.eat("<") {
                // Not a general expression: `>` would be read as an operator.
                let Token::Int(count @ 0..=MAX_FAMILY) = self.p.c.next() else {
                    return Err(self.p.c.expected("a number of registers"));
                };
                self.p.c.expect(">")?;
                self.scopes.declare_family(name, count as u64, shape.ty, components)
            } else {
                self.scopes.declare_register(name, shape.ty, components)
            };
            if !fresh {
                return Err(self.p.duplicate(name, at));
            }
            if !self.p.c.eat(",") {
                return self.p.c.expect(";");
            }
        }
    }

    /// A variable of the function. `.global` and `.const` ones become the module's, under a name of this scope.
    fn variables(&mut self) -> Result<(), ParseError> {
        let is_extern = self.p.linking();
        let space = match self.p.c.peek() {
            Token::Dot(word) => parser::space(word),
            _ => None,
        };
        let Some(space) = space else {
            let text = self.p.c.peek().describe();
            return Err(self.p.c.error(ParseErrorKind::Unsupported(format!("{text} in a function"))));
        };
        self.p.c.next();
        let shape = variable::shape(&mut self.p.c)?;
        loop {
            let at = self.p.c.position();
            let Parser { c, globals, .. } = &mut *self.p;
            let mut find = |name: &str| globals.get(name).copied();
            let (name, variable) = variable::declarator(c, space, shape, is_extern, &mut find)?;
            let symbol = if matches!(space, Space::Global | Space::Const) {
                self.p.module.variables.push(variable);
                Symbol::Variable(self.p.module.variables.len() - 1)
            } else {
                self.function.variables.push(variable);
                Symbol::Local(self.function.variables.len() - 1)
            };
            if !self.scopes.declare(name, Name::Symbol(symbol)) {
                return Err(self.p.duplicate(name, at));
            }
            if !self.p.c.eat(",") {
                return self.p.c.expect(";");
            }
        }
    }

    /// `.loc 1 20 5{, function_name label{+4}, inlined_at 1 10 3}`
    fn location(&mut self) -> Result<(), ParseError> {
        let c = &mut self.p.c;
        c.next();
        for _ in 0..3 {
            constant::integer(c)?;
        }
        while c.eat(",") {
            match c.word("function_name or inlined_at")? {
                "function_name" => {
                    c.word("a label")?;
                    if c.eat("+") {
                        constant::integer(c)?;
                    }
                }
                _ => (0..3).try_for_each(|_| constant::integer(c).map(drop))?,
            }
        }
        Ok(())
    }

    fn labelled_or_instruction(&mut self) -> Result<(), ParseError> {
        if let (Token::Word(name), Token::Sign(":")) = (self.p.c.peek(), self.p.c.peek_at(1)) {
            let at = self.p.c.position();
            self.p.c.next();
            self.p.c.next();
            return self.label(name, at);
        }
        self.instruction()
    }

    /// What stands behind `name:`.
    fn label(&mut self, name: &'a str, at: Position) -> Result<(), ParseError> {
        let fresh = match self.p.c.peek() {
            Token::Dot("branchtargets") => {
                let labels = self.word_list()?;
                let table = labels.into_iter().map(|(name, at)| self.use_label(name, at)).collect();
                self.scopes.define_label(name, Target::Table(table))
            }
            Token::Dot("calltargets") => {
                let mut functions = Vec::new();
                for (name, at) in self.word_list()? {
                    let Some(Symbol::Function(index)) = self.p.globals.get(name).copied() else {
                        return Err(ParseError { at, kind: ParseErrorKind::Unknown(name.into()) });
                    };
                    functions.push(index);
                }
                self.scopes.declare(name, Name::CallTargets(functions))
            }
            Token::Dot("callprototype") => {
                self.p.c.skip_statement()?;
                self.scopes.declare(name, Name::Prototype)
            }
            _ => self.scopes.define_label(name, Target::Code(self.function.code.len())),
        };
        if fresh { Ok(()) } else { Err(self.p.duplicate(name, at)) }
    }

    /// `.branchtargets a, b;`, as names with their places.
    fn word_list(&mut self) -> Result<Vec<(&'a str, Position)>, ParseError> {
        self.p.c.next();
        let mut all = Vec::new();
        loop {
            let at = self.p.c.position();
            all.push((self.p.c.word("a name")?, at));
            if !self.p.c.eat(",") {
                self.p.c.expect(";")?;
                return Ok(all);
            }
        }
    }

    /// The label of this name, noted as used here.
    pub(super) fn use_label(&mut self, name: &'a str, at: Position) -> usize {
        let label = self.scopes.label(name);
        self.label_uses.push((label, name, at));
        label
    }

    fn instruction(&mut self) -> Result<(), ParseError> {
        let guard = self.guard()?;
        let line = self.p.c.position().line;
        let opcode = self.p.c.word("an instruction")?;
        let mut modifiers = Vec::new();
        while let Token::Dot(word) = self.p.c.peek() {
            modifiers.push(word.to_string());
            self.p.c.next();
        }
        let mut operands = Vec::new();
        if opcode == "call" {
            operands.push(self.call()?);
        } else if !self.p.c.is(";") {
            operands.push(self.operand(opcode)?);
            while self.p.c.eat(",") {
                operands.push(self.operand(opcode)?);
            }
        }
        self.p.c.expect(";")?;
        self.function.code.push(Instruction { line, guard, opcode: opcode.into(), modifiers, operands });
        Ok(())
    }

    /// `@p` or `@!p`
    fn guard(&mut self) -> Result<Option<Guard>, ParseError> {
        if !self.p.c.eat("@") {
            return Ok(None);
        }
        let negated = self.p.c.eat("!");
        let reg = self.register()?;
        Ok(Some(Guard { reg, negated }))
    }

    /// A name that must be a scalar register.
    pub(super) fn register(&mut self) -> Result<RegId, ParseError> {
        let Token::Word(name) = self.p.c.peek() else { return Err(self.p.c.expected("a register")) };
        match self.scopes.find(name) {
            Some(Name::Reg(reg)) => {
                self.p.c.next();
                Ok(reg)
            }
            Some(_) => Err(self.p.c.expected("a register")),
            None => Err(self.p.c.error(ParseErrorKind::Unknown(name.into()))),
        }
    }

    /// Replaces labels by the instructions they lead to.
    fn resolve_labels(&mut self) -> Result<(), ParseError> {
        for &(label, name, at) in &self.label_uses {
            if self.scopes.target(label).is_none() {
                return Err(ParseError { at, kind: ParseErrorKind::Unknown(name.into()) });
            }
        }
        let scopes = &self.scopes;
        // A table's entry that is a table itself leads nowhere; its uses were checked above, so this is the only case.
        let code = |label: &usize| match scopes.target(*label) {
            Some(Target::Code(index)) => Some(*index),
            _ => None,
        };
        for instruction in &mut self.function.code {
            for operand in &mut instruction.operands {
                let Operand::Label(label) = operand else { continue };
                *operand = match scopes.target(*label) {
                    Some(Target::Table(entries)) => {
                        let targets = entries.iter().map(code).collect::<Option<Vec<_>>>();
                        let at = Position { line: instruction.line, column: 1 };
                        let kind = ParseErrorKind::Unsupported("a branch table within a branch table".into());
                        Operand::Targets(targets.ok_or(ParseError { at, kind })?)
                    }
                    _ => Operand::Label(code(label).unwrap_or(0)),
                };
            }
        }
        Ok(())
    }
}
