//! What a kernel says about itself, in a line of module-level assembly:
//! `//@kernel NAME maxntid=384 minctasm=1 maxnreg=168 smem=213064 cluster=2,1,1 tensormap=1,2,3,4 plan=7`.

use anyhow::{Context, Result, bail};

/// A kernel's launch bounds and the roles of its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Entry point.
    pub name: String,
    /// Threads of a block, at most.
    pub maxntid: u32,
    /// Blocks that shall fit a multiprocessor.
    pub minctasm: Option<u32>,
    /// Registers of a thread at entry, at most.
    pub maxnreg: Option<u32>,
    /// Blocks of a cluster in x, y, z.
    pub cluster: Option<String>,
    /// Dynamic shared memory of a launch, bytes.
    pub smem: u32,
    /// Positions of the parameters that are tensor maps.
    pub tensormap: Vec<usize>,
    /// Fingerprint of the plan that a launcher must have too.
    pub plan: Option<u64>,
}

impl Declared {
    /// Reads one line of assembly; `None` when it is not a kernel's declaration.
    pub fn parse(line: &str) -> Result<Option<Declared>> {
        let Some(rest) = line.trim().strip_prefix("//@kernel ") else { return Ok(None) };
        Self::fields(rest).map(Some).with_context(|| format!("in `{}`", line.trim()))
    }

    fn fields(rest: &str) -> Result<Declared> {
        let mut words = rest.split_whitespace();
        let name = words.next().context("the kernel's name is missing")?.to_owned();
        let mut kernel = Declared {
            name,
            maxntid: 0,
            minctasm: None,
            maxnreg: None,
            cluster: None,
            smem: 0,
            tensormap: Vec::new(),
            plan: None,
        };
        for word in words {
            let (key, value) = word.split_once('=').with_context(|| format!("`{word}` is not KEY=VALUE"))?;
            let number = || value.parse::<u32>().with_context(|| format!("{key}={value}: not a number"));
            match key {
                "maxntid" => kernel.maxntid = number()?,
                "minctasm" => kernel.minctasm = Some(number()?),
                "maxnreg" => kernel.maxnreg = Some(number()?),
                "smem" => kernel.smem = number()?,
                "plan" => kernel.plan = Some(value.parse().with_context(|| format!("{key}={value}: not a number"))?),
                // A block that is its own cluster needs no word.
                "cluster" => kernel.cluster = Some(value.to_owned()).filter(|blocks| blocks != "1,1,1"),
                "tensormap" if value.is_empty() => {}
                "tensormap" => {
                    let positions = value.split(',').map(str::parse).collect::<Result<_, _>>();
                    kernel.tensormap = positions.with_context(|| format!("{key}={value}: not a list of positions"))?;
                }
                _ => bail!("`{key}` is none of maxntid, minctasm, maxnreg, smem, cluster, tensormap, plan"),
            }
        }
        if kernel.maxntid == 0 || kernel.maxntid > 1024 {
            bail!("maxntid={} is not between 1 and 1024", kernel.maxntid);
        }
        Ok(kernel)
    }

    /// The launch bounds as LLVM function attributes.
    pub fn attributes(&self) -> String {
        let mut list = vec![format!("\"nvvm.maxntid\"=\"{}\"", self.maxntid)];
        list.extend(self.minctasm.map(|blocks| format!("\"nvvm.minctasm\"=\"{blocks}\"")));
        list.extend(self.maxnreg.map(|registers| format!("\"nvvm.maxnreg\"=\"{registers}\"")));
        list.extend(self.cluster.as_ref().map(|blocks| format!("\"nvvm.cluster_dim\"=\"{blocks}\"")));
        list.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_is_read_in_full() {
        let line = "  //@kernel k maxntid=384 minctasm=1 maxnreg=168 smem=213064 cluster=2,1,1 tensormap=1,2,3,4 \
                    plan=18446744073709551615";
        let kernel = Declared::parse(line).unwrap().unwrap();
        assert_eq!((kernel.maxntid, kernel.smem), (384, 213_064));
        assert_eq!(kernel.tensormap, [1, 2, 3, 4]);
        assert_eq!((kernel.cluster.as_deref(), kernel.plan), (Some("2,1,1"), Some(u64::MAX)));
        let bare = Declared::parse("//@kernel k maxntid=32 tensormap= cluster=1,1,1").unwrap().unwrap();
        assert_eq!((bare.tensormap.len(), bare.cluster), (0, None));
        assert_eq!(Declared::parse(".extern .shared .align 1024 .b8 smem[];").unwrap(), None);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, word) in [
            ("//@kernel k", "maxntid=0"),
            ("//@kernel k maxntid=x", "not a number"),
            ("//@kernel k maxntid=32 regs=3", "`regs` is none of"),
            ("//@kernel k maxntid=32 fast", "KEY=VALUE"),
            ("//@kernel k maxntid=32 tensormap=1,q", "list of positions"),
        ] {
            let error = format!("{:#}", Declared::parse(line).unwrap_err());
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
