use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"# HELP dwcp_v3_hde_compression_ratio Share of bytes saved.
# TYPE dwcp_v3_hde_compression_ratio gauge
dwcp_v3_hde_compression_ratio 0.81
# HELP go_goroutines Goroutines.
# TYPE go_goroutines gauge
go_goroutines 12

# HELP dwcp_v3_compression_ratio Ratio.
# TYPE dwcp_v3_compression_ratio histogram
dwcp_v3_compression_ratio_bucket{algorithm="zstd",le="0.5"} 1
dwcp_v3_compression_ratio_bucket{algorithm="zstd",le="+Inf"} 3 1795350000000
dwcp_v3_compression_ratio_sum{algorithm="zstd"} 2.1
dwcp_v3_compression_ratio_count{algorithm="zstd"} 3
# a comment
dwcp_v3_label_text{b="a \"quoted\", \\ text}",a="x" ,} NaN
"#;

#[test]
fn help_type_and_series_are_kept() {
    let scraped = parse(GOOD).unwrap();
    assert_eq!(scraped.other, 1);
    let names: Vec<&str> = scraped.families.keys().map(String::as_str).collect();
    let expected =
        ["dwcp_v3_compression_ratio", "dwcp_v3_hde_compression_ratio", "dwcp_v3_label_text"];
    assert_eq!(names, expected);
    assert_eq!(
        text(&scraped.families),
        r#"# HELP dwcp_v3_compression_ratio Ratio.
# TYPE dwcp_v3_compression_ratio histogram
dwcp_v3_compression_ratio_bucket{algorithm="zstd",le="0.5"} 1
dwcp_v3_compression_ratio_bucket{algorithm="zstd",le="+Inf"} 3
dwcp_v3_compression_ratio_sum{algorithm="zstd"} 2.1
dwcp_v3_compression_ratio_count{algorithm="zstd"} 3
# HELP dwcp_v3_hde_compression_ratio Share of bytes saved.
# TYPE dwcp_v3_hde_compression_ratio gauge
dwcp_v3_hde_compression_ratio 0.81
# HELP dwcp_v3_label_text Passed on from a component that provides no help text.
# TYPE dwcp_v3_label_text untyped
dwcp_v3_label_text{a="x",b="a \"quoted\", \\ text}"} NaN
"#
    );
}

#[test]
fn garbage_is_refused_with_its_line() {
    for (text, line) in [
        ("", 0),
        ("# only a comment\n", 0),
        ("<html><body>404</body></html>", 1),
        ("dwcp_v3_a 1\ndwcp_v3_b", 2),
        ("dwcp_v3_a one", 1),
        ("dwcp_v3_a 1 soon", 1),
        ("dwcp_v3_a 1 2 3", 1),
        ("dwcp_v3_a{x=1} 1", 1),
        ("dwcp_v3_a{x=\"1} 1", 1),
        ("dwcp_v3_a{x=\"1\" y=\"2\"} 1", 1),
        ("dwcp_v3_a{x=\"1\",x=\"2\"} 1", 1),
        ("dwcp_v3_a{1x=\"1\"} 1", 1),
        ("9a 1", 1),
        ("# TYPE dwcp_v3_a speed\ndwcp_v3_a 1", 1),
        ("# TYPE dwcp_v3_a gauge\n# TYPE dwcp_v3_a counter\ndwcp_v3_a 1", 2),
    ] {
        assert_eq!(parse(text).unwrap_err().line, line, "{text}");
    }
    let long = format!("dwcp_v3_a{{x=\"{}\"}} 1", "y".repeat(20_000));
    assert_eq!(parse(&long).unwrap_err().what, "too long");
}

#[test]
fn duplicates_and_too_many_are_counted() {
    let scraped = parse("dwcp_v3_a{x=\"1\",y=\"2\"} 1\ndwcp_v3_a{y=\"2\",x=\"1\"} 5\n").unwrap();
    assert_eq!(scraped.duplicates, 1);
    assert_eq!(scraped.families["dwcp_v3_a"].series.len(), 1);
    let many: String =
        (0..MAX_SERIES + 7).map(|index| format!("dwcp_v3_a{{i=\"{index}\"}} 1\n")).collect();
    let scraped = parse(&many).unwrap();
    assert_eq!((scraped.over_limit, scraped.families["dwcp_v3_a"].series.len()), (7, MAX_SERIES));
}

#[test]
fn own_names_and_those_of_others_come_first() {
    let mut merged = Merged::default();
    let own = |name: &str| name == "dwcp_v3_errors_total";
    let first = parse(
        "# TYPE dwcp_v3_x gauge\ndwcp_v3_x{a=\"1\"} 1\ndwcp_v3_errors_total 9\n\
         # TYPE dwcp_v3_h histogram\ndwcp_v3_h_sum 1\ndwcp_v3_h_count 1\ndwcp_v3_h_bucket{le=\"+Inf\"} 1\n",
    );
    let (kept, left_out) = merged.add(first.unwrap(), own);
    assert_eq!((kept.len(), left_out), (2, LeftOut { own: 1, duplicates: 0 }));
    let second = parse(
        "# TYPE dwcp_v3_x gauge\ndwcp_v3_x{a=\"1\"} 2\ndwcp_v3_x{a=\"2\"} 2\n\
         # TYPE dwcp_v3_h gauge\ndwcp_v3_h 1\ndwcp_v3_h_sum 4\n",
    );
    let (kept, left_out) = merged.add(second.unwrap(), own);
    assert_eq!(left_out, LeftOut { own: 0, duplicates: 3 });
    assert_eq!(kept["dwcp_v3_x"].series, [("dwcp_v3_x{a=\"2\"}".to_owned(), "2".to_owned())]);
    let text = merged.text();
    assert_eq!(text.matches("# TYPE dwcp_v3_x ").count(), 1);
    assert_eq!(text.matches("dwcp_v3_h_sum 1\n").count(), 1);
    assert!(!text.contains("dwcp_v3_h_sum 4"), "{text}");
}

proptest! {
    #[test]
    fn never_panics_and_what_it_writes_it_reads(text in "(dwcp_v3_[ab]|#|TYPE|HELP|gauge|[{}=\",\\\\]|\\PC| |\n|[0-9.]){0,60}") {
        if let Ok(scraped) = parse(&text) {
            let written = super::text(&scraped.families);
            if !written.is_empty() {
                let again = parse(&written).unwrap();
                prop_assert_eq!(super::text(&again.families), written);
            }
        }
    }
}
