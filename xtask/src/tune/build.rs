//! `tune build`: variants of a kernel, and the program that measures them, in a folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use attn_kernel::forward::tune::TABLE;
use attn_tune::folder::{Folder, Job, Variant};
use attn_tune::grid::{self, Axis, Dropped, Grid};
use attn_tune::{Class, Element};
use clap::ValueEnum;

use crate::{process, ptx, toolchain, workspace};

/// Compile variants of a kernel into a folder with the program that measures them.
///
/// Without --grid and --plan: the plan of the table, then the plans that differ from it in one way, then in two, until there are --max.
/// With them: every combination of the --grid values and every --plan, what they do not name as in the table; registers follow bm
/// where they are not named. Plans that the hardware cannot run are not compiled, kernels that spill are left out; the program's
/// table has a line with the reason for each.
#[derive(clap::Args)]
pub struct Options {
    /// Head dimensions, separated by commas: D, or D:DV where V and O have another one.
    #[arg(long, value_name = "D[:DV]", value_delimiter = ',', required = true)]
    head_dim: Vec<HeadDim>,
    /// Lines of the table, separated by commas: `usual`, and those for some sizes only, `small` for few tiles and `short` for short sequences.
    #[arg(long, value_name = "NAME", value_enum, value_delimiter = ',', default_value = "usual")]
    class: Vec<LineOf>,
    /// With the causal mask.
    #[arg(long, value_enum, default_value = "no", default_missing_value = "yes", num_args = 0..=1, require_equals = true)]
    causal: Causal,
    /// Element type to measure with; both have the same plans.
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: DType,
    /// Lengths of queries and keys, separated by commas [default: 1024,4096,16384, causal also 512; small 128,256,512,1024, short
    /// 256,512,1024].
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65536))]
    lengths: Vec<u32>,
    /// Tokens of a problem: as many batches as give them, or one of a longer sequence [default: 16384; small one sequence].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    tokens: Option<u32>,
    /// Values of a knob to try: bn=96,112,128. Several give every combination. --list prints the knobs.
    #[arg(long, value_name = "KNOB=V,V,..")]
    grid: Vec<Axis>,
    /// One more plan: 'bm=192 bn=144 turns=1'.
    #[arg(long, value_name = "KNOBS")]
    plan: Vec<String>,
    /// At most so many variants of a kernel.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=200))]
    max: u16,
    /// Folder to fill; what is in it is replaced [default: target/tune].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write the variants' PTX, which the simulator runs.
    #[arg(long)]
    ptx: bool,
    /// Print the plans instead of compiling them.
    #[arg(long)]
    list: bool,
}

/// `64` or `192:128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HeadDim(u32, u32);

impl FromStr for HeadDim {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (d, dv) = text.split_once(':').unwrap_or((text, text));
        let dims = d.parse().ok().zip(dv.parse().ok());
        let mut all: Vec<_> = TABLE.iter().map(|line| (line.d, line.dv)).collect();
        all.dedup();
        dims.filter(|dims| all.contains(dims)).map(|(d, dv)| HeadDim(d, dv)).ok_or_else(|| {
            let name = |(d, dv): &(u32, u32)| if d == dv { d.to_string() } else { format!("{d}:{dv}") };
            format!("the table has {}", all.iter().map(name).collect::<Vec<_>>().join(", "))
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Causal {
    No,
    Yes,
    Both,
}

/// Which of the lines for head dimensions and a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LineOf {
    Usual,
    Small,
    Short,
}

impl LineOf {
    /// As the table has it.
    fn name(self) -> &'static str {
        match self {
            LineOf::Usual => "",
            LineOf::Small => "small",
            LineOf::Short => "short",
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DType {
    Bf16,
    F16,
}

/// What measures.
const PROGRAM: &str = "attn-gpu-tune";
const SCRIPT: &str = include_str!("run.sh");

/// Runs the command; returns the folder.
pub fn run(options: &Options) -> Result<PathBuf> {
    let out = options.out.clone().unwrap_or_else(|| workspace::target().join("tune"));
    let jobs = options.classes().into_iter().map(|class| Ok((class, options.grid(class)?)));
    let jobs: Vec<(Class, Grid)> = jobs.collect::<Result<_>>()?;
    ensure!(
        !jobs.is_empty(),
        "the table has no such line for these head dimensions and this mask; it has {}",
        every_line()
    );
    for (class, grid) in &jobs {
        println!("{class}: {} plans, {} that cannot run", grid.plans.len(), grid.dropped.len());
    }
    if options.list {
        list(&jobs);
        return Ok(out);
    }
    clear(&out)?;
    let wanted: Vec<ptx::Variant> = jobs.iter().flat_map(|(class, grid)| variants(*class, grid)).collect();
    let defects = ptx::variants(&toolchain::ready()?, &wanted, &out, options.ptx)?;
    let classes = jobs.into_iter().map(|(class, grid)| options.job(class, grid, &defects)).collect::<Result<_>>()?;
    let folder = Folder { classes };
    folder.write(&out)?;
    for job in &folder.classes {
        println!("{}: {} variants", job.class, job.variants.len());
        job.dropped.iter().for_each(|Dropped { knobs, why }| println!("  left out: {knobs}: {why}"));
    }
    let program = process::build_program("attn-tests", PROGRAM)?;
    fs::copy(&program, out.join(PROGRAM)).with_context(|| format!("cannot copy {}", program.display()))?;
    let script = out.join("run.sh");
    fs::write(&script, SCRIPT)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    println!("{}: on a machine with a GPU run ./run.sh there", out.display());
    Ok(out)
}

impl Options {
    fn classes(&self) -> Vec<Class> {
        let element = match self.dtype {
            DType::Bf16 => Element::Bf16,
            DType::F16 => Element::F16,
        };
        let masks: &[bool] = match self.causal {
            Causal::No => &[false],
            Causal::Yes => &[true],
            Causal::Both => &[false, true],
        };
        let wanted = |class: &Class| {
            self.class.iter().any(|line| line.name() == class.line.class)
                && self.head_dim.contains(&HeadDim(class.line.d, class.line.dv))
                && masks.contains(&class.line.causal)
        };
        Class::all(element).filter(wanted).collect()
    }

    fn grid(&self, class: Class) -> Result<Grid> {
        let present = class.present();
        let max = usize::from(self.max);
        if self.grid.is_empty() && self.plan.is_empty() {
            return Ok(grid::around(present, class.line.causal, max)?);
        }
        let mut grid = grid::product(present, &self.grid, max)?;
        for knobs in &self.plan {
            grid.add_with(knobs)?;
        }
        if grid.plans.len() > max {
            bail!("{} plans that can run, and at most {max} are wanted (--max)", grid.plans.len());
        }
        Ok(grid)
    }

    fn lengths(&self, class: Class) -> Vec<usize> {
        if !self.lengths.is_empty() {
            return self.lengths.iter().map(|&length| length as usize).collect();
        }
        match (class.line.class, class.line.causal) {
            ("small", _) => vec![128, 256, 512, 1024],
            ("short", _) => vec![256, 512, 1024],
            (_, false) => vec![1024, 4096, 16384],
            (_, true) => vec![512, 1024, 4096, 16384],
        }
    }

    fn tokens(&self, class: Class) -> usize {
        let usual = if class.line.class == "small" { 1 } else { 16_384 };
        self.tokens.map_or(usual, |tokens| tokens as usize)
    }

    /// What is left of a class's grid after compiling.
    fn job(&self, class: Class, grid: Grid, defects: &[ptx::Defective]) -> Result<Job> {
        let mut dropped = grid.dropped;
        let mut kept = Vec::new();
        for (index, plan) in grid.plans.iter().enumerate() {
            let (name, knobs) = (entry_point(class, index), plan.to_string());
            match defects.iter().find(|(bad, _)| *bad == name) {
                Some((_, why)) if index == 0 => bail!("the present plan of {class} does not compile: {why}"),
                Some((_, why)) => dropped.push(Dropped { knobs, why: why.clone() }),
                None => kept.push(Variant { name, knobs }),
            }
        }
        let (lengths, tokens) = (self.lengths(class), self.tokens(class));
        Ok(Job { class, lengths, tokens, variants: kept, dropped })
    }
}

/// Every line that there is for some sizes only.
fn every_line() -> String {
    let lines = Class::all(Element::Bf16).filter(|class| !class.line.class.is_empty());
    lines.map(|class| class.head()).collect::<Vec<_>>().join(", ")
}

fn entry_point(class: Class, index: usize) -> String {
    format!("tune_{class}_{index:02}")
}

fn variants(class: Class, grid: &Grid) -> impl Iterator<Item = ptx::Variant> {
    grid.plans.iter().enumerate().map(move |(index, plan)| ptx::Variant {
        name: entry_point(class, index),
        element: class.element.type_name(),
        dims: (class.line.d, class.line.dv),
        causal: class.line.causal,
        knobs: plan.to_string(),
    })
}

fn list(jobs: &[(Class, Grid)]) {
    println!("knobs: {}", grid::words());
    for (class, grid) in jobs {
        println!("{class}");
        grid.plans.iter().for_each(|plan| println!("  {plan}"));
        grid.dropped.iter().for_each(|Dropped { knobs, why }| println!("  cannot run: {knobs}: {why}"));
    }
}

/// Empties a folder of an earlier run, and refuses to empty any other.
fn clear(out: &Path) -> Result<()> {
    let empty = !out.exists() || fs::read_dir(out)?.next().is_none();
    let ours = |name: &str| out.join(name).exists();
    if !empty && !ours("variants.rs") {
        bail!("{} holds other things than variants; name another folder", out.display());
    }
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("cannot empty {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &str) -> Result<Options, String> {
        let words = std::iter::once("build").chain(words.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.options).map_err(|error| error.to_string())
    }

    #[test]
    fn classes_are_every_combination_of_head_dimensions_and_masks() {
        let names =
            |words| -> Vec<String> { options(words).expect(words).classes().iter().map(ToString::to_string).collect() };
        assert_eq!(names("--head-dim 64"), ["bf16_d64"]);
        assert_eq!(names("--head-dim 96 --causal"), ["bf16_d96_causal"]);
        let both = names("--head-dim 64,192:128 --causal=both --dtype f16");
        assert_eq!(both, ["f16_d64", "f16_d64_causal", "f16_d192_128", "f16_d192_128_causal"]);
        let all = names("--head-dim 64,128 --causal --class usual,small,short");
        let want = ["bf16_d64_causal", "bf16_d64_causal_short", "bf16_d64_causal_small", "bf16_d128_causal"];
        assert_eq!(all, [&want[..], &["bf16_d128_causal_small"]].concat());
    }

    #[test]
    fn every_line_of_the_table_has_a_class() {
        let mut known: Vec<&str> = LineOf::value_variants().iter().map(|line| line.name()).collect();
        let mut all: Vec<&str> = TABLE.iter().map(|line| line.class).collect();
        known.sort_unstable();
        all.sort_unstable();
        all.dedup();
        assert_eq!(known, all);
        let missing = run(&options("--head-dim 96 --class short --list").expect("options")).expect_err("no such line");
        assert!(
            missing
                .to_string()
                .ends_with("64 64 causal short, 64 64 causal small, 128 128 full small, 128 128 causal small"),
            "{missing}"
        );
    }

    #[test]
    fn lines_for_some_sizes_are_measured_at_these() {
        let measured = |words: &str| {
            let options = options(words).expect(words);
            let class = options.classes()[0];
            (options.lengths(class), options.tokens(class))
        };
        assert_eq!(measured("--head-dim 64 --class small"), (vec![128, 256, 512, 1024], 1));
        assert_eq!(measured("--head-dim 64 --causal --class short"), (vec![256, 512, 1024], 16_384));
        assert_eq!(measured("--head-dim 64 --class small --tokens 4096 --lengths 64"), (vec![64], 4096));
    }

    #[test]
    fn head_dimensions_without_a_line_are_refused_with_those_that_have_one() {
        for text in ["48", "64:96", "", "x"] {
            let error = text.parse::<HeadDim>().expect_err(text);
            assert!(error.contains("64, 96, 128, 192:128, 192, 256"), "{error}");
        }
        assert!(options("").is_err_and(|error| error.contains("--head-dim")));
        assert!(options("--head-dim 64 --grid bx=1").is_err_and(|error| error.contains("the knobs are")));
    }

    #[test]
    fn what_has_defects_is_left_out_with_the_reason_and_the_present_plan_must_have_none() {
        let options = options("--head-dim 64 --grid bn=64,80,300 --lengths 128").expect("options");
        let class = options.classes()[0];
        let grid = options.grid(class).expect("a grid");
        let wanted: Vec<_> = variants(class, &grid).map(|variant| variant.name).collect();
        assert_eq!(wanted, ["tune_bf16_d64_00", "tune_bf16_d64_01", "tune_bf16_d64_02"]);
        let defect = |name: &str| (name.to_owned(), "8 bytes spill".to_owned());
        let job = options.job(class, grid.clone(), &[defect("tune_bf16_d64_01")]).expect("a job");
        assert_eq!((job.variants.len(), job.variants[1].name.as_str()), (2, "tune_bf16_d64_02"));
        assert!(job.variants[1].knobs.contains("bn=80"));
        assert_eq!((job.lengths, job.tokens), (vec![128], 16_384));
        let why: Vec<_> = job.dropped.iter().map(|d| (d.knobs.contains("bn=64"), d.why.as_str())).collect();
        assert_eq!(why[1], (true, "8 bytes spill"));
        assert!(why[0].1.contains("whole k-steps"), "{why:?}");
        let error = options.job(class, grid, &[defect("tune_bf16_d64_00")]).expect_err("the present plan");
        assert!(error.to_string().contains("present plan of bf16_d64 does not compile: 8 bytes"), "{error}");
    }

    #[test]
    fn only_a_folder_of_variants_is_emptied() {
        let dir = std::env::temp_dir().join(format!("attn-variants-{}", std::process::id()));
        clear(&dir).expect("created");
        fs::write(dir.join("thesis.tex"), "years of work").expect("writable");
        assert!(clear(&dir).expect_err("not ours").to_string().contains("holds other things"));
        fs::write(dir.join("variants.rs"), "").expect("writable");
        clear(&dir).expect("variants are replaced");
        assert!(!dir.join("thesis.tex").exists());
        fs::remove_dir_all(&dir).expect("removable");
    }
}
