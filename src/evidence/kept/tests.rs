use std::time::Duration;

use super::*;
use crate::evidence::{Attached, Material};

fn image(n: usize) -> Digest {
    Digest::of(&n.to_le_bytes())
}

fn bundle(bytes: &[u8]) -> Found {
    Found { material: Material::Bundle(bytes.to_vec()), place: "reg.io/x@sha256:00".to_owned() }
}

fn signature(text: &str) -> Found {
    let material = Material::SimpleSigning {
        payload: vec![0, 0xff, 10],
        signature: text.to_owned(),
        attached: Attached::default(),
    };
    Found { material, place: "reg.io/x:sha256-00.sig".to_owned() }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn order(n: usize, evidence: Vec<Found>, at: i64) -> Order {
    let evidence = evidence.into_iter().map(|found| Piece { first_seen: second(at), found }).collect();
    Order { image: image(n), evidence, indexes: Vec::new() }
}

/// A writer that a test drives by itself.
fn writer(state: &Path) -> Writer {
    let directory = state.join(DIRECTORY);
    files::private_directory(&directory).unwrap();
    Writer { directory, lost: Arc::default(), files: HashMap::new(), bytes: 0 }
}

#[tokio::test]
async fn what_was_kept_is_found_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let found = [signature("MEUC"), bundle(b"{\"a\":1}")];
    let index = Index { bytes: b"{}".to_vec(), names: vec![Name::Fetched("reg.io".into(), "x".into())] };
    let kept = Kept::open(folder.path());
    assert_eq!(kept.evidence(&image(1)).await, []);
    kept.keep(image(1), found.to_vec(), second(1));
    kept.keep_index(image(1), index.clone());
    let path = path(&folder.path().join(DIRECTORY), &image(1));
    for _ in 0..1000 {
        if !read(&path).indexes.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let reading = Kept::of_daemon(folder.path());
    let seen: Vec<_> = found.iter().map(|found| (second(1), found.clone())).collect();
    assert_eq!(reading.evidence(&image(1)).await, seen);
    reading.keep(image(2), found.to_vec(), second(1));
    let restarted = Kept::open(folder.path());
    assert_eq!(restarted.evidence(&image(1)).await, seen);
    assert_eq!(restarted.indexes(&image(1)).await, [index]);
    assert_eq!(restarted.evidence(&image(2)).await, []);
}

#[test]
fn the_first_time_that_a_piece_was_seen_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = writer(folder.path());
    writer.add(order(1, vec![signature("a")], 5));
    writer.add(order(1, vec![signature("a"), signature("b")], 9));
    let about = read(&path(&writer.directory, &image(1)));
    let seen: Vec<_> = about.evidence.iter().map(|piece| piece.first_seen).collect();
    assert_eq!(seen, [second(5), second(9)]);
}

#[test]
fn a_file_that_cannot_be_read_says_nothing_and_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = writer(folder.path());
    writer.add(order(1, vec![signature("a")], 1));
    let path = path(&writer.directory, &image(1));
    let whole = fs::read(&path).unwrap();
    let huge = vec![b' '; usize::try_from(2 * limits::KEPT_IMAGE_BYTES + 1).unwrap()];
    let cut = (0..whole.len()).map(|end| whole[..end].to_vec());
    for bytes in cut.chain([huge, b"{\"evidence\":[],\"indexes\":[],\"more\":1}".to_vec(), vec![0xff; 100]]) {
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path), About::default());
    }
    writer.add(order(1, vec![signature("b")], 2));
    assert_eq!(read(&path).evidence.len(), 1);
    assert_eq!(writer.lost.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_kept_about_one_image_is_bounded_and_the_newest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = writer(folder.path());
    let kept = |writer: &Writer, n: usize| read(&path(&writer.directory, &image(n)));
    let many = (0..2 * limits::KEPT_PIECES).map(|i| signature(&i.to_string())).collect();
    writer.add(order(1, many, 1));
    writer.add(order(1, vec![signature("of a new key")], 2));
    let evidence = kept(&writer, 1).evidence;
    assert_eq!(evidence.len(), limits::KEPT_PIECES);
    assert_eq!(evidence.last().unwrap().found, signature("of a new key"));
    let half = vec![b'x'; usize::try_from(limits::KEPT_IMAGE_BYTES / 2).unwrap()];
    let large = (0..4u8).map(|i| bundle(&[&half[..], &[i]].concat())).chain([signature("small")]).collect();
    writer.add(order(2, large, 1));
    let about = kept(&writer, 2);
    assert!(about.bytes() <= limits::KEPT_IMAGE_BYTES);
    assert_eq!(about.evidence.len(), 2, "the last of the large ones, and the small one after it");
    let whole = usize::try_from(limits::KEPT_IMAGE_BYTES + 1).unwrap();
    writer.add(order(2, vec![bundle(&vec![b'x'; whole])], 2));
    assert_eq!(kept(&writer, 2), about);
    let index = |bytes: usize, names: usize| Index {
        bytes: vec![b'x'; bytes],
        names: vec![Name::Claimed("reg.io/x".parse().unwrap()); names],
    };
    for indexes in
        [vec![index(0, 1 << 17)], vec![index(whole, 0)], vec![index(half.len() + 1, 0), index(half.len() + 2, 0)]]
    {
        writer.add(Order { indexes, ..order(3, Vec::new(), 1) });
    }
    assert_eq!(kept(&writer, 3).indexes, [index(half.len() + 2, 0)]);
    for i in 0..=limits::KEPT_PIECES {
        writer.add(Order { indexes: vec![index(i, 1)], ..order(4, Vec::new(), 1) });
    }
    assert_eq!(kept(&writer, 4).indexes.len(), limits::KEPT_PIECES);
}

#[test]
fn beyond_the_bounds_the_least_recently_used_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = writer(folder.path());
    for i in 0..20 {
        writer.add(order(i, vec![signature("a")], 1));
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(i as u64);
        let path = path(&writer.directory, &image(i));
        File::open(&path).unwrap().set_modified(used).unwrap();
        writer.note(path);
    }
    writer.add(order(0, vec![signature("a")], 1));
    writer.sweep(20, u64::MAX);
    assert_eq!(writer.files.len(), 20);
    writer.sweep(19, u64::MAX);
    let there =
        |writer: &Writer| -> Vec<usize> { (0..20).filter(|i| path(&writer.directory, &image(*i)).exists()).collect() };
    assert_eq!(there(&writer), [vec![0], (12..20).collect()].concat());
    let one = writer.bytes / 9;
    writer.sweep(20, one * 5);
    assert_eq!(there(&writer), [0, 17, 18, 19]);
    assert_eq!(writer.bytes, one * 4);
}

#[test]
fn a_disk_that_takes_nothing_costs_only_what_would_be_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = writer(folder.path());
    fs::remove_dir(&writer.directory).unwrap();
    writer.add(order(1, vec![signature("a")], 1));
    assert_eq!((writer.lost.load(Ordering::Relaxed), writer.bytes), (1, 0));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(Kept::open(&file).0.is_none());
}

#[test]
fn who_asks_for_more_than_the_disk_takes_loses_it() {
    let (orders, _receiver) = mpsc::sync_channel(limits::KEPT_WAITING);
    let kept = Kept(Some(Arc::new(Inner { directory: PathBuf::new(), orders: Some(orders), lost: Arc::default() })));
    for _ in 0..limits::KEPT_WAITING + 3 {
        kept.keep(image(1), Vec::new(), second(1));
    }
    assert_eq!(kept.lost(), 3);
}
