//! The cases as lines.

/// Small enough for the simulator, and for every head dimension.
pub(super) const SMALL: [(&str, &str); 9] = [
    (
        "varlen",
        "\
h=2 hk=1 causal varlen=5,0,17,130 klens=same
h=2 hk=2 varlen=64,1,77 klens=10,0,200
h=2 hk=1 causal varlen=40,3,0,20 klens=70,64,33,0 usedq=33,0,0,20 usedk=70,10,0,0
h=2 hk=2 varlen=20,70 klens=same layout=padded
b=3 h=2 hk=1 sq=20 sk=100 causal usedq=20,0,7 usedk=100,64,0 layout=bhsd
h=2 hk=2 causal varlen=30,40 klens=same layout=packed
h=2 hk=2 varlen=40,50,30 klens=same poison=1
h=1 hk=1 causal varlen=0,0,130,0 klens=3,0,129,5 sq=200 sk=300 layout=packedkv
h=1 hk=1 causal varlen=12*9 klens=12*17 poison=4
h=4 hk=4 varlen=65 klens=64 scale=0.2
h=3 hk=1 causal varlen=33,128,1 klens=33,140,50
h=2 hk=2 varlen=129,30 klens=257,31 window=100:20",
    ),
    (
        "window",
        "\
h=2 hk=1 varlen=100,33 klens=150,33 window=16:0
h=1 hk=1 varlen=130,9 klens=70,90 window=30:20
b=1 h=1 hk=1 sq=100 sk=200 window=:10
h=2 hk=2 varlen=90 klens=200 window=64:
h=1 hk=1 varlen=150 klens=same window=0:0
h=1 hk=1 varlen=120,10 klens=130,300 window=127:0 sinks",
    ),
    (
        "softcap",
        "\
h=2 hk=1 causal varlen=60,33 klens=same softcap=5
h=2 hk=2 varlen=90 klens=140 softcap=30 window=40:10 sinks
b=2 h=1 hk=1 sq=70 sk=130 softcap=1 alibi=head usedk=130,50",
    ),
    (
        "alibi",
        "\
h=4 hk=2 varlen=70,9 klens=100,0 alibi=head
h=3 hk=1 causal varlen=40,60 klens=90,60 alibi=sequence sinks
h=2 hk=2 usedq=65,3 usedk=65,150 sq=65 page=16 causal alibi=head softcap=20 equals=dense",
    ),
    (
        "sinks",
        "\
h=5 hk=1 causal varlen=60,5 klens=same sinks
h=3 hk=3 varlen=20,30 klens=0,130 sinks",
    ),
    (
        "paged",
        "\
h=2 hk=1 causal varlen=50,20 usedk=120,20 page=16 equals=dense
h=2 hk=2 varlen=70,9 usedk=200,0 page=64 layout=padded
h=2 hk=1 causal varlen=40,30,50 usedk=150,130,140 page=64:2 equals=dense
b=2 h=2 hk=2 sq=40 usedk=100,257 page=256 layout=bhsd
h=2 hk=1 varlen=40,9,20 usedk=90,33,120 page=32 poison=1 layout=packedkv
h=1 hk=1 varlen=100 usedk=300 page=128 window=70:0 equals=dense
h=1 hk=1 causal varlen=70,66,65 usedk=161,193,224 page=32 equals=dense
h=2 hk=1 varlen=60,7 usedk=200,170 page=16:0:3 equals=dense",
    ),
    (
        "decode",
        "\
b=3 h=8 hk=1 sq=1 usedk=100,0,257 page=16 equals=dense
b=2 h=4 hk=4 sq=1 sk=200 usedk=200,3
b=2 h=14 hk=2 sq=1 usedk=130,65 page=64 splits=3 sinks
b=2 h=4 hk=1 sq=1 causal usedk=97,140 page=32 equals=prefill
b=3 h=4 hk=2 sq=1 usedk=300,1,128 page=256 splits=auto
h=8 hk=1 causal varlen=1,1,1 usedk=70,3,140 page=16:2 softcap=10 equals=prefill
b=2 h=12 hk=1 sq=1 sk=150 splits=2 alibi=head window=90:0
b=2 h=8 hk=2 sq=3 causal usedk=66,200 page=64 equals=prefill
b=2 h=7 hk=1 sq=1 usedk=40,260 page=16 poison=0 splits=3
b=1 h=16 hk=1 sq=2 sk=250 causal layout=padded splits=4 equals=alone",
    ),
    (
        "float8",
        "\
h=2 hk=1 causal varlen=50,20 usedk=120,20 page=16 float8=keys factors=head equals=dense
b=3 h=8 hk=1 sq=1 usedk=100,0,257 page=32 float8=keys factors=sequence splits=2
b=2 h=4 hk=1 sq=1 causal usedk=97,140 page=16:1 float8=keys factors=head equals=prefill
h=2 hk=2 varlen=70,9 klens=200,3 float8=keys softcap=20 alibi=head factors=head poison=1
h=2 hk=1 causal varlen=150,20 usedk=220,20 page=64 float8=all factors=head equals=dense
h=2 hk=2 varlen=90,3 klens=140,0 window=40:10 sinks float8=all factors=sequence
b=2 h=8 hk=1 sq=1 usedk=260,100 page=32 float8=all factors=head splits=2 softcap=15 poison=1",
    ),
    (
        "invariance",
        "\
h=2 hk=1 causal varlen=30,0,80,5 klens=60,7,80,90 equals=alone
h=2 hk=2 varlen=65,20 usedk=150,40 page=16 splits=2 equals=alone poison=0
b=4 h=4 hk=1 sq=1 usedk=9,250,64,100 page=32 equals=alone
h=2 hk=1 causal varlen=30,3,80,1 usedk=270,140,300,90 page=16 splits=2 equals=alone
h=1 hk=1 varlen=70,100,9 klens=200,300,150 window=100:0 splits=3 equals=alone
b=3 h=4 hk=1 sq=40 usedq=40,0,7 usedk=300,90,170 page=32:1 window=90:5 splits=2 sinks equals=alone
h=1 hk=1 causal varlen=140,5,66 klens=390,5,150 splits=3 poison=1 equals=alone",
    ),
];

/// Small ones with format and head dimensions of their own, for kernels that the others do not come by.
pub(super) const FLOAT8: &str = "\
bf16 h=2 hk=1 d=64 dv=64 causal lse varlen=40,9 usedk=150,20 page=32 float8=keys factors=head
f16 b=2 h=4 hk=1 d=128 dv=128 sq=1 lse usedk=140,60 page=16 float8=keys splits=2
bf16 h=2 hk=1 d=256 dv=256 causal lse varlen=150,20 usedk=220,20 page=64 float8=all factors=head equals=dense
bf16 b=2 h=8 hk=1 d=256 dv=240 sq=1 lse usedk=260,100 page=32 float8=all factors=sequence splits=2 softcap=15 poison=1
bf16 h=2 hk=2 d=144 dv=192 lse varlen=90,3 klens=140,0 window=40:10 sinks float8=all factors=sequence input=large
bf16 h=2 hk=1 d=192 dv=144 causal lse varlen=70,9 klens=200,30 alibi=head float8=all factors=head input=rising
bf16 h=4 hk=1 d=256 dv=256 causal lse varlen=40,1 usedk=150,90 page=16 float8=all factors=head equals=alone
bf16 h=2 hk=1 d=128 dv=128 causal lse varlen=130,9 usedk=190,20 page=32 float8=keys factors=head saturated equals=dense
f16 b=2 h=4 hk=1 d=64 dv=64 sq=2 lse usedk=240,60 float8=keys factors=sequence saturated input=large splits=2
f16 h=2 hk=2 d=256 dv=256 lse varlen=30,3 klens=150,9 window=60:5 sinks float8=keys factors=sequence saturated
bf16 h=2 hk=1 d=128 dv=128 causal lse varlen=140,20 usedk=200,20 page=64 float8=all factors=head saturated equals=dense
bf16 h=2 hk=2 d=64 dv=64 lse varlen=60,3 klens=240,10 float8=all factors=sequence saturated input=large
bf16 b=2 h=8 hk=1 d=128 dv=128 sq=1 lse usedk=260,100 page=16 float8=all factors=head saturated softcap=15 alibi=head splits=2
bf16 h=2 hk=1 d=256 dv=256 causal lse varlen=60,9 klens=200,9 float8=all factors=sequence saturated input=rising
bf16 h=2 hk=1 d=256 dv=256 lse varlen=20 klens=140 float8=all factors=head saturated input=constant";

/// Small ones of sequences whose keys are one block of Hopper's kernels for them.
pub(super) const SHORT: &str = "\
bf16 h=2 hk=1 d=128 dv=128 causal lse varlen=5,0,32,17,1,64 klens=same equals=alone
f16 h=2 hk=2 d=128 dv=128 lse varlen=20*7 klens=20*33 window=:3
bf16 h=4 hk=2 d=64 dv=64 causal lse varlen=40,9,64 usedk=50,9,64 page=16 sinks equals=dense
f16 b=5 h=8 hk=1 d=64 dv=64 sq=1 lse usedk=64,1,0,33,17 page=64 splits=1 equals=alone
bf16 h=4 hk=4 d=64 dv=64 causal lse varlen=52*9 klens=same
f16 h=8 hk=8 d=128 dv=128 lse varlen=17*7 klens=17*20";

/// Small ones whose maxima grow by so much from block to block, which are walked from the last key to the first, that O is rescaled.
pub(super) const RESCALED: &str = "\
bf16 h=1 hk=1 d=128 dv=128 lse varlen=130,9 klens=300,30 softcap=50 alibi=head input=falling
f16 h=1 hk=1 d=64 dv=64 causal lse varlen=140,5 klens=390,5 input=falling splits=2
bf16 h=1 hk=1 d=192 dv=128 lse varlen=70,3 klens=300,9 softcap=50 input=falling splits=2
f16 h=2 hk=1 d=96 dv=96 causal lse varlen=20,40 usedk=270,150 page=16 alibi=head input=falling equals=dense";

/// For kernels of packed sequences alone: several tiles of 192 rows, drawn, a mask that ends right of the diagonal, and last blocks of keys that
/// end around each of their quarters.
pub(super) const PROMPT: &str = "\
bf16 h=1 hk=1 d=64 dv=64 causal lse varlen=220,9,100 klens=same equals=alone
f16 h=1 hk=1 d=64 dv=64 lse varlen=200,70 klens=130,257 window=:20 sinks
f16 h=1 hk=1 d=128 dv=128 lse varlen=140,2,5,66,65,1,70 klens=160,161,192,193,224,225,256
bf16 h=1 hk=1 d=128 dv=128 causal lse varlen=140,65,70,97 klens=160,161,193,225 equals=alone
bf16 h=2 hk=1 d=128 dv=128 causal lse varlen=90,33,50 klens=161,65,97
f16 h=1 hk=1 d=64 dv=64 lse varlen=193,40,65 klens=97,33,225";

/// For a GPU: longer sequences and larger batches, of every head dimension.
pub(super) const LARGE: [(&str, &str); 9] = [
    (
        "varlen",
        "\
h=3 hk=1 causal varlen=1,0,63,64,65,300,129,500 klens=same
h=2 hk=2 varlen=127,128,129,191,192,193,255,257 klens=175,176,177,79,80,81,385,1
h=4 hk=2 causal varlen=zipf:300:300:1 klens=same
h=2 hk=1 varlen=uniform:64:100:2 klens=uniform:64:300:3 layout=padded
h=2 hk=2 causal varlen=700,10,400 klens=600,900,400 usedq=650,10,0 usedk=600,850,400
b=7 h=2 hk=1 sq=200 sk=333 causal usedq=200,0,1,64,65,130,199 usedk=333,333,64,65,0,1,300 layout=padded
b=3 h=2 hk=2 sq=300 sk=300 layout=packed usedk=300,10,299
h=2 hk=2 causal varlen=300,20,400 klens=same layout=packed input=rising
h=2 hk=1 varlen=200,33,410,0,7 klens=same poison=2
h=2 hk=1 causal varlen=200,33,410,64 klens=300,33,410,500 poison=0 input=sinking",
    ),
    (
        "window",
        "\
h=2 hk=1 varlen=1000,300 klens=1100,900 window=128:0
h=2 hk=2 varlen=900 klens=same window=1:0
h=2 hk=1 varlen=700,800 klens=900,700 window=200:100
h=2 hk=2 b=2 sq=600 sk=700 window=:5
h=2 hk=1 b=2 sq=700 sk=600 window=10:
h=1 hk=1 varlen=1100 klens=same window=255:0 input=rising
h=1 hk=1 varlen=1100 klens=same window=256:257 input=falling
h=2 hk=2 varlen=300,500 klens=2000,100 window=64:64 input=spike
h=1 hk=1 varlen=500,700 klens=500,700 window=100000:0
h=3 hk=1 varlen=40,500 klens=3000,2000 window=1000:0 page=64",
    ),
    (
        "softcap",
        "\
h=2 hk=1 causal varlen=700,300 klens=same softcap=50
h=2 hk=2 varlen=300,200 klens=500,900 softcap=2 input=rising
h=2 hk=1 varlen=600 klens=800 softcap=30 window=100:0 sinks alibi=head
h=2 hk=1 causal varlen=400,100 usedk=900,777 page=64 softcap=15 input=large",
    ),
    (
        "alibi",
        "\
h=8 hk=2 causal varlen=500,300 klens=same alibi=head
h=4 hk=4 varlen=300,200 klens=700,100 alibi=sequence input=falling
h=7 hk=1 causal varlen=100,90 usedk=1500,800 page=32 alibi=head equals=dense",
    ),
    (
        "sinks",
        "\
h=8 hk=8 causal varlen=300,400,1 klens=same sinks
h=6 hk=3 varlen=500,30 klens=100,0 sinks window=20:0
h=5 hk=1 causal varlen=300 usedk=900 page=128 sinks splits=3",
    ),
    (
        "paged",
        "\
h=4 hk=2 causal varlen=300,1,40,500 usedk=900,1300,40,511 page=16 equals=dense
h=4 hk=2 varlen=300,1,40,500 usedk=900,1300,0,512 page=32 equals=dense
h=4 hk=2 causal varlen=300,1,40,500 usedk=900,1300,40,513 page=64:8 equals=dense
h=4 hk=2 varlen=300,1,40,500 usedk=900,1300,40,500 page=128:3 layout=bhsd equals=dense
h=4 hk=2 causal varlen=300,1,40,500 usedk=900,1300,40,500 page=256:1 layout=packedkv equals=dense
h=4 hk=2 causal varlen=300,1,40,500 usedk=900,1300,40,500 page=1024 layout=padded equals=dense
h=4 hk=2 causal varlen=300,1,40,500 usedk=900,1300,40,500 page=128:0:2 equals=dense
h=2 hk=1 b=40 sq=20 usedk=uniform:40:700:4 page=16 poison=7
h=2 hk=2 varlen=64*5 usedk=64*100 page=16:6 causal",
    ),
    (
        "float8",
        "\
h=4 hk=2 causal varlen=300,1,40,500 usedk=900,1300,40,511 page=16 float8=keys factors=sequence equals=dense
h=4 hk=2 varlen=300,1,40,500 klens=900,1300,0,512 float8=keys window=200:50 layout=packedkv
h=2 hk=2 causal varlen=700,300 klens=same float8=keys softcap=30 sinks factors=head input=rising
h=4 hk=2 causal varlen=300,1,40,500 usedk=900,1300,40,511 page=16 float8=all factors=sequence equals=dense
h=2 hk=1 varlen=300,200 klens=9000,100 float8=all factors=head
h=2 hk=2 causal varlen=700,300 klens=same float8=all factors=head layout=packed equals=alone
h=2 hk=1 varlen=300,200 klens=900,700 float8=all input=rising
h=2 hk=1 varlen=300,200 klens=900,700 float8=all input=spike sinks
h=2 hk=1 varlen=300,200 klens=900,700 float8=all input=sinking softcap=20 alibi=head
b=5 h=8 hk=1 sq=1 usedk=3000,1,0,128,2047 page=64 float8=all factors=sequence splits=auto
b=5 h=8 hk=1 sq=1 usedk=3000,1,0,128,2047 page=64 float8=keys factors=sequence splits=7
b=5 h=16 hk=4 sq=1 usedk=3000,1,0,128,2047 page=128 float8=keys splits=5 equals=alone
b=4 h=8 hk=2 sq=5 causal usedk=1500,900,64,5 page=16 float8=keys factors=head equals=prefill alibi=head
b=4 h=12 hk=1 sq=2 usedk=1500,900,64,5 float8=keys factors=head layout=bhsd poison=2
h=4 hk=2 causal varlen=300,1,40,500 usedk=900,1300,40,511 page=16 float8=keys factors=sequence saturated equals=dense
h=4 hk=2 causal varlen=300,1,40,500 usedk=900,1300,40,511 page=64 float8=all factors=sequence saturated equals=dense
h=2 hk=1 varlen=300,200 klens=9000,700 float8=all factors=head saturated
h=2 hk=1 varlen=300,200 klens=900,700 float8=all factors=head saturated input=large sinks
h=2 hk=2 varlen=300,200 klens=900,700 float8=all factors=head saturated input=spike softcap=20
b=5 h=8 hk=1 sq=1 usedk=3000,1,0,128,2047 page=64 float8=all factors=sequence saturated splits=auto
b=5 h=8 hk=1 sq=1 usedk=3000,1,0,128,2047 page=64 float8=keys factors=sequence saturated splits=7",
    ),
    (
        "decode",
        "\
b=5 h=8 hk=1 sq=1 usedk=3000,1,0,128,2047 page=16 splits=7
b=5 h=8 hk=8 sq=1 usedk=3000,1,0,128,2047 page=64 splits=3
b=5 h=16 hk=8 sq=1 usedk=3000,1,0,128,2047 page=128 splits=auto
b=5 h=16 hk=4 sq=1 usedk=3000,1,0,128,2047 page=256 splits=16 equals=alone
b=5 h=14 hk=2 sq=1 sk=3000 usedk=3000,1,0,128,2047 splits=auto
b=5 h=24 hk=2 sq=1 sk=3000 usedk=3000,1,0,128,2047 splits=2
b=5 h=32 hk=1 sq=1 usedk=3000,1,0,128,2047 page=32 splits=5
b=2 h=128 hk=1 sq=1 usedk=500,900 page=64 splits=3
b=3 h=71 hk=1 sq=2 causal usedk=500,900,70 page=64 splits=2
b=4 h=8 hk=2 sq=5 causal usedk=1500,900,64,5 page=16 equals=prefill
b=4 h=8 hk=1 sq=1 causal usedk=1500,900,64,5 page=64 equals=prefill sinks
b=4 h=12 hk=1 sq=2 usedk=1500,900,64,5 equals=prefill window=300:0
b=4 h=8 hk=2 sq=1 causal usedk=1000,900,64,5 page=16 softcap=20 alibi=sequence equals=prefill
h=8 hk=1 causal varlen=1,64,1,300,1 usedk=900,64,1300,1000,0 page=64 equals=alone
h=8 hk=1 causal varlen=1,64,1,300,1 usedk=900,64,1300,1000,0 page=16 splits=3 equals=alone
b=300 h=8 hk=1 sq=1 usedk=zipf:300:2000:5 page=16 equals=alone
b=3 h=8 hk=1 sq=1 sk=4000 usedk=4000,100,3999 splits=32 input=rising
b=3 h=8 hk=1 sq=1 sk=4000 usedk=4000,100,3999 splits=32 input=sinking sinks
b=3 h=8 hk=1 sq=1 sk=500 splits=128",
    ),
    (
        "invariance",
        "\
h=8 hk=2 causal varlen=1,700,64,300,2 usedk=900,1500,64,1000,2000 page=64 splits=3 equals=alone
h=6 hk=1 causal varlen=200,9,33,0,450 klens=same splits=5 equals=alone
h=2 hk=2 varlen=300,64,65,900 klens=1000,2000,129,1100 window=200:0 splits=4 equals=alone
b=6 h=16 hk=2 sq=70 usedq=70,1,0,33,64,70 usedk=1000,3000,10,257,256,700 page=16:3 causal splits=7 equals=alone
b=4 h=7 hk=1 sq=130 usedq=130,9,64,1 usedk=1300,2000,100,900 window=300:20 splits=2 sinks equals=alone
h=4 hk=1 causal varlen=zipf:200:300:6 klens=same splits=2 equals=alone
h=4 hk=2 varlen=129,2,400 usedk=1400,900,500 page=128 softcap=20 alibi=head splits=3 equals=alone poison=1",
    ),
];

/// With format and head dimensions of their own: the largest batches, the longest sequences, the farthest pages.
pub(super) const OWN: [(&str, &str); 3] = [
    (
        "varlen",
        "\
bf16 h=2 hk=1 d=64 dv=64 causal lse varlen=zipf:4096:150:1 klens=same
f16 h=1 hk=1 d=128 dv=128 lse varlen=4096*9 klens=uniform:4096:60:2 poison=4000
bf16 b=66000 h=1 hk=1 d=64 dv=64 sq=1 lse klens=66000*3
f16 h=1 hk=1 d=64 dv=64 lse varlen=8192*3 klens=uniform:8192:9:1 causal
f16 b=4096 h=8 hk=1 d=128 dv=128 sq=1 lse usedk=zipf:4096:600:3 page=16
bf16 b=4096 h=4 hk=1 d=64 dv=64 sq=1 lse usedk=zipf:4096:600:3 page=32 splits=2 equals=alone
bf16 h=1 hk=1 d=128 dv=128 causal lse varlen=8190*0,3000,10 klens=same",
    ),
    (
        "paged",
        "\
bf16 h=2 hk=1 d=128 dv=128 causal lse varlen=20,9 usedk=40,17 page=16 layout=far equals=dense
f16 b=2 h=4 hk=1 d=64 dv=64 sq=1 lse usedk=120,70 page=64 layout=far splits=2",
    ),
    (
        "long",
        "\
bf16 b=1 h=8 hk=1 d=128 dv=128 sq=1 sk=1000003 lse splits=auto
f16 b=1 h=4 hk=1 d=64 dv=64 sq=1 lse usedk=1048576 page=64 splits=16
bf16 b=2 h=2 hk=1 d=128 dv=128 sq=3 causal lse usedk=700001,5 page=16 splits=auto
f16 h=1 hk=1 d=256 dv=256 lse varlen=70,1 klens=200000,100 window=5000:0",
    ),
];
