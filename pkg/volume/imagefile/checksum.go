package imagefile

import (
	"bufio"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// hashes are those that a checksum may be of, and by how many digits a list tells them.
var hashes = map[string]func() hash.Hash{"md5": md5.New, "sha1": sha1.New, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}

// maxList is how large a list of checksums may be, in bytes.
const maxList = 16 << 20

// sum is a checksum that a source has to have.
type sum struct {
	name, want string
	hash       hash.Hash
}

func newSum(name, want string) (*sum, error) {
	make, known := hashes[strings.ToLower(name)]
	want = strings.ToLower(want)
	if raw, err := hex.DecodeString(want); !known || err != nil || len(raw) != make().Size() {
		return nil, failure.Invalid("the checksum %q is not one: write sha256:HEX or sha512:HEX (md5, sha1 and sha384 are known too), or the path or URL of a list of checksums", name+":"+want)
	}
	return &sum{strings.ToLower(name), want, make()}, nil
}

func (s *sum) check(called string) error {
	if got := hex.EncodeToString(s.hash.Sum(nil)); got != s.want {
		return failure.Invalid("image file %s has the %s checksum %s, and should have %s: fetch it again, and look where the checksum is from", called, s.name, got, s.want)
	}
	return nil
}

// checksum is what the source has to have; nil: anything.
func (s Source) checksum(ctx context.Context) (*sum, error) {
	if s.Checksum == "" {
		return nil, nil
	}
	if name, want, found := strings.Cut(s.Checksum, ":"); found && hashes[strings.ToLower(name)] != nil {
		return newSum(name, want)
	}
	list := Source{From: s.Checksum, CACert: s.CACert}
	if s.From == "-" {
		return nil, failure.Invalid("a list of checksums names files, and standard input has no name: give the checksum itself, as sha256:HEX")
	}
	name := filepath.Base(s.From)
	if u, err := url.Parse(s.From); s.remote() && err == nil {
		name = path.Base(u.Path)
	}
	var r io.ReadCloser
	var err error
	if list.remote() {
		r, err = list.get(ctx, list.From)
	} else if r, err = os.Open(list.From); err != nil {
		err = failure.Invalid("the checksum %q is neither ALGORITHM:HEX nor a list of checksums that can be read: %v", s.Checksum, err)
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	lines := bufio.NewScanner(io.LimitReader(r, maxList))
	for lines.Scan() {
		if algorithm, want := checksumIn(lines.Text(), name); want != "" {
			return newSum(algorithm, want)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("the list of checksums %s: %w", list.Called(), err)
	}
	return nil, failure.Invalid("the list of checksums %s has none of %s", list.Called(), name)
}

// checksumIn reads a line of a list of checksums: that of sha256sum and its kin, or that of
// BSD's sha256, as "SHA256 (NAME) = HEX".
func checksumIn(line, name string) (algorithm, want string) {
	f := strings.Fields(line)
	switch {
	case len(f) == 4 && f[1] == "("+name+")" && f[2] == "=":
		return f[0], f[3]
	case len(f) == 2 && path.Base(strings.TrimPrefix(f[1], "*")) == name:
		for algorithm, make := range hashes {
			if len(f[0]) == 2*make().Size() {
				return algorithm, f[0]
			}
		}
	}
	return "", ""
}
