package gitobject

// Every cap on what is read from a repository stands here.
const (
	// MaxCommitBytes bounds one commit object, message and signature included.
	MaxCommitBytes = 256 << 10
	// MaxTreeBytes bounds one folder's tree object, MaxTreeEntries the names in it.
	MaxTreeBytes   = 8 << 20
	MaxTreeEntries = 65_536
	// MaxBlobBytes bounds one file that is read (other files may be larger, they are never read).
	MaxBlobBytes = 4 << 20
	// MaxDepth bounds how deep folders nest, MaxPath the bytes of a path.
	MaxDepth = 24
	MaxPath  = 1024
	// MaxFiles bounds the files of one commit, MaxTotalBytes the bytes read of them.
	MaxFiles      = 200_000
	MaxTotalBytes = 256 << 20
	// MaxParents bounds the parents of one commit, MaxHeaders its header fields.
	MaxParents = 64
	MaxHeaders = 64
)

func limitOf(kind Kind) int64 {
	switch kind {
	case KindCommit:
		return MaxCommitBytes
	case KindTree:
		return MaxTreeBytes
	default:
		return MaxBlobBytes
	}
}
