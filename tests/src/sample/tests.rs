//! Good files are read, and each way in which a file can be bad gets its own message.

use super::*;

type Entry = (&'static str, Dtype, Vec<usize>);

fn file(entries: &[Entry], metadata: &[(&str, &str)]) -> Vec<u8> {
    let data: Vec<Vec<u8>> =
        entries.iter().map(|(_, t, s)| vec![0; s.iter().product::<usize>() * t.bitsize() / 8]).collect();
    let views = entries.iter().zip(&data).map(|((name, dtype, shape), data)| {
        (*name, TensorView::new(*dtype, shape.clone(), data).expect("sizes agree"))
    });
    let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    safetensors::serialize(views, Some(metadata)).expect("serializes")
}

fn good() -> Vec<Entry> {
    vec![
        ("q", Dtype::F16, vec![2, 3, 4, 16]),
        ("k", Dtype::F16, vec![2, 5, 2, 16]),
        ("v", Dtype::F16, vec![2, 5, 2, 8]),
        ("o", Dtype::F32, vec![2, 3, 4, 8]),
        ("lse", Dtype::F32, vec![2, 4, 3]),
    ]
}

/// The message for the good file with one tensor replaced, or removed when `shape` is empty.
fn message(name: &'static str, dtype: Dtype, shape: &[usize]) -> String {
    let mut entries = good();
    entries.retain(|e| e.0 != name);
    if !shape.is_empty() {
        entries.push((name, dtype, shape.to_vec()));
    }
    Sample::parse(&file(&entries, &[])).expect_err("a bad file").to_string()
}

#[test]
fn a_good_file_is_read_with_and_without_expected_values() {
    let sample = Sample::parse(&file(&good(), &[])).expect("valid");
    assert_eq!((sample.precision, sample.scale, sample.causal), (Precision::F16, 0.25, false));
    assert_eq!(sample.q.dims, Dims { batch: 2, seq: 3, heads: 4, width: 16 });
    assert_eq!(sample.lse.expect("there").dims, Dims { batch: 2, seq: 3, heads: 4, width: 1 });
    let bare = Sample::parse(&file(&good()[..3], &[("mask", "causal"), ("scale", "0.5")])).expect("valid");
    assert!(bare.o.is_none() && bare.lse.is_none() && bare.causal);
    assert_eq!(bare.scale, 0.5);
}

#[test]
fn the_real_sample_is_what_its_readme_says() {
    let sample = Sample::minilm();
    assert_eq!(sample.q.dims, Dims { batch: 1, seq: 331, heads: 12, width: 32 });
    assert_eq!((sample.precision, sample.causal), (Precision::Bf16, false));
    assert_eq!(sample.scale, 1.0 / 32f32.sqrt());
    assert!(sample.o.is_some() && sample.lse.is_some());
}

#[test]
fn missing_tensors_are_named_with_what_is_there() {
    assert_eq!(message("k", Dtype::F16, &[]), "there is no tensor 'k'; the file has lse, o, q, v");
    let other = Sample::parse(&file(&[("weight", Dtype::F32, vec![3])], &[])).expect_err("no q").to_string();
    assert_eq!(other, "there is no tensor 'q'; the file has weight");
}

#[test]
fn wrong_types_are_named_with_what_is_allowed() {
    assert_eq!(message("q", Dtype::F32, &[2, 3, 4, 16]), "tensor 'q' has type F32, allowed is bf16 or f16");
    assert_eq!(message("v", Dtype::BF16, &[2, 5, 2, 8]), "tensor 'v' has type BF16, allowed is that of q, f16");
    assert_eq!(message("o", Dtype::F64, &[2, 3, 4, 8]), "tensor 'o' has type F64, allowed is f32, f16 or bf16");
    assert_eq!(message("lse", Dtype::F16, &[2, 4, 3]), "tensor 'lse' has type F16, allowed is f32");
}

#[test]
fn wrong_shapes_are_named_with_what_was_expected() {
    assert!(message("q", Dtype::F16, &[3, 4, 16]).contains("'q' has shape [3, 4, 16], expected four dimensions"));
    assert!(message("q", Dtype::F16, &[2, 0, 4, 16]).contains("each at least 1"));
    assert!(message("k", Dtype::F16, &[1, 5, 2, 16]).contains("expected [2, seqlen_k, kv_heads, 16]"));
    assert!(message("k", Dtype::F16, &[2, 5, 2, 32]).contains("expected [2, seqlen_k, kv_heads, 16]"));
    assert!(message("k", Dtype::F16, &[2, 5, 3, 16]).contains("divides q's 4"));
    assert!(message("v", Dtype::F16, &[2, 6, 2, 8]).contains("expected [2, 5, 2, head_dim_v]"));
    assert!(message("o", Dtype::F32, &[2, 3, 4, 16]).contains("expected [2, 3, 4, 8]"));
    assert!(message("lse", Dtype::F32, &[2, 3, 4]).contains("expected [2, 4, 3]"));
}

#[test]
fn bad_metadata_is_named() {
    let error = |key, value| Sample::parse(&file(&good(), &[(key, value)])).expect_err("bad").to_string();
    assert_eq!(error("scale", "a lot"), "metadata 'scale' is 'a lot', allowed is a positive number or 1/sqrt(N)");
    assert!(error("scale", "1/sqrt(-1)").contains("positive"));
    assert_eq!(error("mask", "window"), "metadata 'mask' is 'window', allowed is none or causal");
}

#[test]
fn truncated_and_foreign_files_are_refused() {
    let bytes = file(&good(), &[]);
    for len in [0, 4, 8, 100, bytes.len() - 1] {
        let error = Sample::parse(&bytes[..len]).expect_err("truncated");
        assert!(matches!(error, SampleError::Format(_)), "{len}: {error}");
    }
    assert!(Sample::parse(b"PK\x03\x04 this is some other kind of file").is_err());
    let missing = Sample::read(Path::new("/nonexistent/a.safetensors")).expect_err("no file");
    assert!(matches!(missing, SampleError::Io(_)), "{missing}");
}

#[test]
fn an_answer_written_is_read_back() {
    let sample = Sample::minilm();
    let (o, lse) = (sample.o.expect("there"), sample.lse.expect("there"));
    let path = std::env::temp_dir().join(format!("attn-answer-{}.safetensors", std::process::id()));
    write_answer(&path, &o, &lse, Precision::F16).expect("writes");
    let bytes = std::fs::read(&path).expect("written");
    std::fs::remove_file(&path).expect("removable");
    let file = SafeTensors::deserialize(&bytes).expect("valid");
    let back = expected_o(&file.tensor("o").expect("o"), o.dims).expect("shape");
    assert!(back.data.iter().zip(&o.data).all(|(b, o)| *b == Precision::F16.round(*o)));
    assert_eq!(expected_lse(&file.tensor("lse").expect("lse"), lse.dims).expect("shape"), lse);
}
