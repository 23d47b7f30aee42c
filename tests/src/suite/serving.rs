//! One serving case of the suite: run, compared with the oracle and with the problems that have the same answer.

use attn_kernel::forward::{Family, KERNELS, Kernel};

use crate::compare::{self, Mismatch, Report, Tolerance};
use crate::dense::Dense;
use crate::gpu::{Gpu, GpuError, LSE_POISON, Output};
use crate::layout::View;
use crate::oracle;
use crate::precision::POISON;
use crate::serve::case::{Narrow, ServeCase, Splits};
use crate::serve::gpu::ServeLoaded;
use crate::serve::inputs::{self, ServeInputs};
use crate::serve::relations::{self, Other, Same};
use crate::suite::Options;
use crate::suite::check::{Failure, repeat};

/// Runs a case; what it measured, or why its answer is not accepted. Where no kernel is named, every other one that computes the problem
/// runs it too.
pub(super) fn check(gpu: &Gpu, case: &ServeCase, options: &Options) -> Result<Report, Failure> {
    let inputs = ServeInputs::of(case);
    let loaded = gpu.load_serving(case, &inputs, options.kernel.as_deref())?;
    let output = loaded.run()?;
    untouched(&loaded, &output)?;
    let answer = Answer::of(case, &loaded, &output);
    let expected = Expected::of(case, &inputs);
    let report = answer.compare(case, &expected)?;
    repeat(gpu, || loaded.run(), &output, (options.seed, options.seeds))?;
    for other in relations::others(case, &inputs) {
        equal(gpu, case, &answer, &other)?;
    }
    if options.kernel.is_none() {
        for kernel in others_than(loaded.plan.kernel()) {
            let failed = |why: Failure| Failure::Kernel { kernel: kernel.name, why: Box::new(why) };
            by_kernel(gpu, case, &inputs, kernel, (&answer, &expected)).map_err(failed)?;
        }
    }
    Ok(report)
}

/// The serving kernels for the same architecture, format and head dimensions.
fn others_than(chosen: &Kernel) -> impl Iterator<Item = &'static Kernel> {
    let class = |kernel: &Kernel| (kernel.arch, kernel.dtype, kernel.launch.d, kernel.launch.dv);
    let (own, name) = (class(chosen), chosen.name);
    KERNELS.iter().filter(move |kernel| class(kernel) == own && kernel.family != Family::Dense && kernel.name != name)
}

/// Runs a case with a kernel that was not chosen, if it computes it: with the same bits, unless each kernel has a count of splits of its own.
fn by_kernel(
    gpu: &Gpu,
    case: &ServeCase,
    inputs: &ServeInputs,
    kernel: &Kernel,
    (answer, expected): (&Answer, &Expected),
) -> Result<(), Failure> {
    let loaded = match gpu.load_serving(case, inputs, Some(kernel.name)) {
        Err(GpuError::Host(attn_host::Error::Unsupported { .. })) => return Ok(()),
        loaded => loaded?,
    };
    let output = loaded.run()?;
    untouched(&loaded, &output)?;
    let other = Answer::of(case, &loaded, &output);
    if case.splits == Splits::Auto {
        return Ok(other.compare(case, expected).map(|_| ())?);
    }
    for b in case.compared() {
        answer.same(case, &other, Same { here: b, there: b, first: 0 }, kernel.name)?;
    }
    Ok(())
}

/// What is right, and what a naive program gives.
struct Expected {
    reference: oracle::Answer<f64>,
    lowp: oracle::Answer<f32>,
}

impl Expected {
    fn of(case: &ServeCase, inputs: &ServeInputs) -> Self {
        Expected { reference: inputs.reference(case), lowp: inputs.lowp(case) }
    }
}

/// The rows in use, as bits.
struct Answer {
    o: Vec<Dense<u16>>,
    lse: Option<Vec<Dense<u32>>>,
}

impl Answer {
    fn of(case: &ServeCase, loaded: &ServeLoaded<'_>, output: &Output) -> Self {
        fn rows<T: Copy>(case: &ServeCase, loaded: &ServeLoaded<'_>, view: &View, bits: &[T]) -> Vec<Dense<T>> {
            (0..case.base.batch).map(|b| loaded.place().gather(view, b, bits, |bits| bits)).collect()
        }
        let place = loaded.place();
        Answer {
            o: rows(case, loaded, &place.o.0, &output.o),
            lse: output.lse.as_ref().map(|lse| rows(case, loaded, &place.lse.0, lse)),
        }
    }

    /// All sequences against the oracle at once: a bound from a few numbers would be one from chance.
    fn compare(&self, case: &ServeCase, Expected { reference, lowp }: &Expected) -> Result<Report, Mismatch> {
        let precision = case.base.precision;
        let values =
            |t: Dense<u16>| Dense { dims: t.dims, data: t.data.iter().map(|x| precision.from_bits(*x)).collect() };
        let o = values(stacked(case, &self.o));
        let lse = self.lse.as_ref().map(|lse| {
            let bits = stacked(case, lse);
            Dense { dims: bits.dims, data: bits.data.iter().map(|x| f32::from_bits(*x)).collect() }
        });
        let factor = if case.softcap.is_some() { compare::FACTOR_SOFTCAP } else { compare::FACTOR };
        let part = if case.float8 == Some(Narrow::All) { compare::lse_part_float8(case.base.head_dim) } else { 0.0 };
        let tolerance = Tolerance { factor, lse: part };
        let report = compare::check_within(tolerance, &o, lse.as_ref(), reference, lowp, precision);
        report.map_err(|mismatch| {
            mismatch.moved(|(_, row, head, column)| {
                let (sequence, row) = inputs::unstacked(case, row);
                (sequence, row, head, column)
            })
        })
    }

    /// Whether rows of another answer have the same bits.
    fn same(
        &self,
        case: &ServeCase,
        other: &Answer,
        Same { here, there, first }: Same,
        name: &str,
    ) -> Result<(), Failure> {
        let apart = |what, at: Option<_>| match at {
            Some(at) => Err(Failure::Apart { sequence: here, what, at, other: name.into() }),
            None => Ok(()),
        };
        let is_nan = |bits| case.base.precision.from_bits(bits).is_nan();
        apart("o", relations::difference(&self.o[here], &other.o[there], first, is_nan))?;
        if let (Some(mine), Some(others)) = (&self.lse, &other.lse) {
            let is_nan = |bits| f32::from_bits(bits).is_nan();
            apart("lse", relations::difference(&mine[here], &others[there], first, is_nan))?;
        }
        Ok(())
    }
}

fn stacked<T: Copy>(case: &ServeCase, sequences: &[Dense<T>]) -> Dense<T> {
    inputs::stacked(case.compared().map(|b| &sequences[b]).collect())
}

/// Whether all but the rows in use is as it was.
fn untouched(loaded: &ServeLoaded<'_>, output: &Output) -> Result<(), Failure> {
    let place = loaded.place();
    if let Some(at) = place.overwritten(&place.o.0, &output.o, POISON) {
        return Err(Failure::Overwrite { what: "o", at });
    }
    if let Some(at) = output.lse.as_ref().and_then(|lse| place.overwritten(&place.lse.0, lse, LSE_POISON)) {
        return Err(Failure::Overwrite { what: "lse", at });
    }
    match loaded.workspace_overwritten()? {
        Some(at) => Err(Failure::Overwrite { what: "the workspace", at }),
        None => Ok(()),
    }
}

/// Whether another problem's rows have the same bits.
fn equal(gpu: &Gpu, case: &ServeCase, answer: &Answer, other: &Other) -> Result<(), Failure> {
    let failed = |error: GpuError| Failure::Other { other: other.case.to_string(), error };
    let loaded = gpu.load_serving(&other.case, &other.inputs, None).map_err(failed)?;
    let output = loaded.run().map_err(failed)?;
    let there = Answer::of(&other.case, &loaded, &output);
    let same = other.same.iter().filter(|same| Some(same.here) != case.poisoned);
    same.copied().try_for_each(|same| answer.same(case, &there, same, &other.case.to_string()))
}
