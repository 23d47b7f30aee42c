//! `attn run` on files: right answers by the simulator, and what is said of files that are not what they should be.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use half::{bf16, f16};
use npyz::WriterBuilder;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// A folder of its own for a test.
fn folder(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    fs::create_dir_all(&path).expect("a writable target folder");
    path
}

/// Runs the program in a folder; what it printed must be UTF-8.
fn attn(folder: &Path, words: &str) -> (Output, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attn"));
    let output = command.args(words.split(' ')).current_dir(folder).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

fn succeeds(folder: &Path, words: &str) -> String {
    let (output, out, err) = attn(folder, words);
    assert!(output.status.success(), "attn {words}: {}\n{out}{err}", output.status);
    out
}

fn refused(folder: &Path, words: &str, part: &str) {
    let (output, out, err) = attn(folder, words);
    assert_eq!(output.status.code(), Some(3), "attn {words}\n{out}{err}");
    assert!(err.starts_with("error: ") && err.contains(part) && err.lines().count() == 1, "attn {words}: {err}");
}

/// Deterministic values between -2 and 2.
fn values(count: usize, salt: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + salt * 11) % 61) as f32 / 15.0 - 2.0).collect()
}

type Given = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn rows(name: &'static str, dtype: Dtype, shape: &[usize], salt: usize) -> Given {
    let values = values(shape.iter().product(), salt);
    let bytes = match dtype {
        Dtype::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        // Small multiples of an eighth are what they are in any format; 0x38 is 1.
        _ => values.iter().map(|x| 0x30 + (x.abs() * 4.0) as u8).collect(),
    };
    (name, dtype, shape.to_vec(), bytes)
}

fn integers(name: &'static str, shape: &[usize], values: &[i32]) -> Given {
    (name, Dtype::I32, shape.to_vec(), values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn floats(name: &'static str, values: &[f32]) -> Given {
    (name, Dtype::F32, vec![values.len()], values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn write(path: &Path, tensors: &[Given], metadata: &[(&str, &str)]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).expect("consistent")));
    let metadata: HashMap<_, _> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    fs::write(path, safetensors::serialize(views, Some(metadata)).expect("serializes")).expect("writable");
}

fn write_npy<T: npyz::AutoSerialize + Copy>(path: &Path, shape: &[u64], values: &[T]) {
    let mut bytes = Vec::new();
    let mut writer =
        npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd().expect("a header");
    writer.extend(values.iter().copied()).expect("a buffer");
    writer.finish().expect("complete");
    fs::write(path, bytes).expect("writable");
}

fn dense(dtype: Dtype) -> Vec<Given> {
    vec![
        rows("q", dtype, &[2, 40, 4, 64], 1),
        rows("k", dtype, &[2, 70, 2, 64], 2),
        rows("v", dtype, &[2, 70, 2, 64], 3),
    ]
}

#[test]
fn dense_tensors_and_what_is_written() {
    let folder = folder("dense");
    write(&folder.join("in.safetensors"), &dense(Dtype::BF16), &[("mask", "causal"), ("scale", "1/sqrt(64)")]);
    let said = succeeds(&folder, "run in.safetensors --simulate --check -o out.safetensors");
    assert!(said.contains("fwd_sm90_bf16_d64_causal") && said.contains("right in 320 of 320 rows"), "{said}");
    let bytes = fs::read(folder.join("out.safetensors")).expect("written");
    let file = SafeTensors::deserialize(&bytes).expect("valid");
    assert_eq!(file.tensor("o").expect("there").shape(), [2, 40, 4, 64]);
    assert_eq!(file.tensor("lse").expect("there").shape(), [2, 4, 40]);
}

#[test]
fn numpy_files_by_their_names() {
    let folder = folder("numpy");
    for (name, shape) in [("q", [1, 33, 2, 32]), ("k", [1, 50, 1, 32]), ("v", [1, 50, 1, 32])] {
        write_npy(&folder.join(format!("{name}.npy")), &shape, &values(shape.iter().product::<u64>() as usize, 4));
    }
    let said = succeeds(&folder, "run q.npy k.npy keys=v.npy --simulate --check".replace("keys", "v").as_str());
    assert!(said.contains("fwd_sm90_bf16_d32") && said.contains("right in 66 of 66 rows"), "{said}");
    let said = succeeds(&folder, "run q.npy k.npy v.npy --dtype f16 --window 9:3 --simulate --check -o o.npy");
    assert!(said.contains("_f16_") && said.contains("right in 66"), "{said}");
    let written = fs::read(folder.join("o.npy")).expect("written");
    let file = npyz::NpyFile::new(&written[..]).expect("valid");
    assert_eq!((file.shape(), file.dtype().descr().as_str()), (&[1, 33, 2, 32][..], "'<f2'"));
    refused(&folder, "run query=q.npy", "query is no tensor of a problem; allowed: q, k, v,");
    refused(&folder, "run q.npy v.npy", "there is no tensor k; there are q, v");
}

#[test]
fn packed_sequences_with_everything() {
    let folder = folder("packed");
    let tensors = vec![
        rows("q", Dtype::F16, &[60, 4, 64], 1),
        rows("k", Dtype::F16, &[90, 2, 64], 2),
        rows("v", Dtype::F16, &[90, 2, 64], 3),
        integers("cu_seqlens_q", &[4], &[0, 20, 20, 60]),
        integers("cu_seqlens_k", &[4], &[0, 33, 40, 90]),
        integers("seqused_k", &[3], &[33, 2, 45]),
        floats("sinks", &[0.5, -1.0, 2.0, 0.0]),
        floats("alibi_slopes", &[0.5, 0.25, 0.125, 0.0625]),
    ];
    write(&folder.join("in.safetensors"), &tensors, &[]);
    let said =
        succeeds(&folder, "run in.safetensors --simulate --check --check-all --softcap 20 --causal -o out.safetensors");
    assert!(said.contains("serve_sm90_f16_d64_mod") && said.contains("right in 240 of 240 rows"), "{said}");
    let bytes = fs::read(folder.join("out.safetensors")).expect("written");
    let file = SafeTensors::deserialize(&bytes).expect("valid");
    assert_eq!(file.tensor("lse").expect("there").shape(), [4, 60]);
}

#[test]
fn pages_and_8_bits() {
    let folder = folder("pages");
    let mut tensors = vec![
        rows("q", Dtype::BF16, &[2, 1, 8, 64], 1),
        rows("k", Dtype::BF16, &[5, 16, 2, 64], 2),
        rows("v", Dtype::BF16, &[5, 16, 2, 64], 3),
        integers("page_table", &[2, 3], &[3, 0, 4, 1, 2, 99]),
        integers("seqused_k", &[2], &[37, 20]),
    ];
    write(&folder.join("wide.safetensors"), &tensors, &[]);
    let said = succeeds(&folder, "run wide.safetensors --simulate --check --splits 2");
    assert!(said.contains("keys in 2 parts") && said.contains("right in 16 of 16 rows"), "{said}");
    tensors[1] = rows("k", Dtype::F8_E4M3, &[5, 16, 2, 64], 2);
    refused_pair(&folder, &tensors);
    tensors[2] = rows("v", Dtype::F8_E4M3, &[5, 16, 2, 64], 3);
    tensors.push(floats("k_descale", &[0.5, 2.0]));
    write(&folder.join("narrow.safetensors"), &tensors, &[]);
    let said = succeeds(&folder, "run narrow.safetensors --simulate --check");
    assert!(said.contains("K and V of 8 bits with factors") && said.contains("right in 16"), "{said}");
    tensors[3] = integers("page_table", &[2, 3], &[3, 0, 4, 1, 7, 99]);
    write(&folder.join("stray.safetensors"), &tensors, &[]);
    refused(&folder, "run stray.safetensors --simulate", "page_table[4] is 7; allowed: 0 to 4");
}

/// K of 8 bits and V of 16.
fn refused_pair(folder: &Path, tensors: &[Given]) {
    write(&folder.join("mixed.safetensors"), tensors, &[]);
    refused(
        folder,
        "run mixed.safetensors --simulate",
        "tensor v holds elements of 16 bits; allowed: 8 bits in k and v",
    );
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let folder = folder("misfits");
    let refuse = |change: &dyn Fn(&mut Vec<Given>), part: &str| {
        let mut tensors = dense(Dtype::BF16);
        change(&mut tensors);
        write(&folder.join("in.safetensors"), &tensors, &[]);
        refused(&folder, "run in.safetensors --simulate", part);
    };
    refuse(&|t| drop(t.remove(1)), "there is no tensor k; there are q, v");
    refuse(
        &|t| t[0] = rows("q", Dtype::BF16, &[2, 40, 256], 1),
        "tensor q has shape [2, 40, 256]; allowed: 4 dimensions",
    );
    refuse(
        &|t| t[1] = rows("k", Dtype::BF16, &[2, 70, 2, 32], 1),
        "tensor k has shape [2, 70, 2, 32]; allowed: head_dim 64",
    );
    refuse(
        &|t| t[2] = rows("v", Dtype::BF16, &[2, 71, 2, 64], 1),
        "tensor v has shape [2, 71, 2, 64]; allowed: [2, 70, 2]",
    );
    refuse(
        &|t| t[0] = rows("q", Dtype::BF16, &[3, 40, 4, 64], 1),
        "tensor k has shape [2, 70, 2, 64]; allowed: 3 sequences",
    );
    refuse(
        &|t| t[0] = rows("q", Dtype::BF16, &[2, 40, 3, 64], 1),
        "heads is 3, which is not a multiple of kv_heads = 2",
    );
    refuse(&|t| t[0] = rows("q", Dtype::BF16, &[2, 0, 4, 64], 1), "every dimension at least 1");
    refuse(&|t| t.push(floats("sinks", &[1.0])), "tensor sinks has shape [1]; allowed: [4]");
    refuse(&|t| t.push(floats("seqused_k", &[1.0, 2.0])), "tensor seqused_k holds f32; allowed: integers");
    refuse(&|t| t.push(integers("seqused_k", &[2], &[5, 71])), "seqused_k[1] is 71; allowed: 0 to 70");
    refuse(&|t| t.push(integers("seqused_k", &[1], &[5])), "seqused_k has 1 entries; allowed: ");
    refuse(&|t| t[0] = integers("q", &[2, 1, 4, 64], &[0; 512]), "tensor q holds integers");
    refuse(
        &|t| t.push(integers("cu_seqlens_q", &[3], &[0, 1, 2])),
        "tensor q has shape [2, 40, 4, 64]; allowed: 3 dim",
    );
    let packed = |sums: &'static [i32]| {
        move |t: &mut Vec<Given>| {
            t[0] = rows("q", Dtype::BF16, &[80, 4, 64], 1);
            t.push(integers("cu_seqlens_q", &[sums.len()], sums));
        }
    };
    refuse(&packed(&[0, 50, 40]), "cu_seqlens_q[2] is 40");
    refuse(&packed(&[0, 50, 81]), "cu_seqlens_q[2] is 81");
    refuse(&packed(&[1, 50, 80]), "cu_seqlens_q[0] is 1; allowed: 0");
    refuse(&packed(&[0]), "tensor k has shape [2, 70, 2, 64]; allowed: 0 sequences");
}

#[test]
fn damaged_files_are_refused() {
    let folder = folder("damaged");
    let whole = folder.join("whole.safetensors");
    write(&whole, &dense(Dtype::BF16), &[]);
    let bytes = fs::read(&whole).expect("written");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    for cut in [0, 5, 8, header / 2, header, bytes.len() - 1] {
        fs::write(folder.join("cut.safetensors"), &bytes[..cut]).expect("writable");
        refused(&folder, "run cut.safetensors", "cut.safetensors: not a complete safetensors file");
    }
    let mut huge = bytes.clone();
    huge[..8].fill(0xff);
    fs::write(folder.join("huge.safetensors"), huge).expect("writable");
    refused(&folder, "run huge.safetensors", "not a complete safetensors file");
    fs::write(folder.join("noise.npy"), values(100, 1).iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        .expect("writable");
    refused(&folder, "run q=noise.npy", "not a complete npy file");
    fs::create_dir_all(folder.join("folder.npy")).expect("writable");
    refused(&folder, "run q=folder.npy", "folder.npy: ");
}

#[test]
fn every_changed_byte_of_a_header_ends_in_an_answer_or_an_error() {
    let folder = folder("changed");
    let tensors: Vec<Given> =
        ["q", "k", "v"].into_iter().map(|name| rows(name, Dtype::BF16, &[1, 1, 1, 32], 1)).collect();
    write(&folder.join("whole.safetensors"), &tensors, &[]);
    let bytes = fs::read(folder.join("whole.safetensors")).expect("written");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    for at in (0..header).step_by(5) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 7);
        fs::write(folder.join("changed.safetensors"), changed).expect("writable");
        let (output, _, err) = attn(&folder, "run changed.safetensors --scale=-1 --simulate");
        // The scale is refused where the file is not.
        assert_eq!(output.status.code(), Some(3), "byte {at}: {err}");
    }
}

#[test]
fn blackwell_is_simulated_too() {
    let folder = folder("blackwell");
    write(&folder.join("in.safetensors"), &dense(Dtype::F16), &[]);
    let said = succeeds(&folder, "run in.safetensors --simulate --arch sm_100a --check");
    assert!(said.contains("fwd_sm100_f16_d64") && said.contains("right in 320"), "{said}");
}

#[test]
fn without_a_gpu_it_says_what_else_there_is() {
    // A machine with a GPU has an answer instead.
    let folder = folder("absent");
    write(&folder.join("in.safetensors"), &dense(Dtype::BF16), &[]);
    let (output, out, err) = attn(&folder, "run in.safetensors --check");
    match output.status.code() {
        Some(0) => assert!(out.contains("right in 320"), "{out}"),
        status => {
            assert_eq!(status, Some(4), "{err}");
            assert!(err.contains("--simulate"), "{err}");
        }
    }
    let said = succeeds(&folder, "info");
    assert!(said.contains("sm_90a"), "{said}");
}
