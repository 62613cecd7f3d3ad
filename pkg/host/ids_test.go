package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIDs(t *testing.T) {
	const count = 65536
	for name, c := range map[string]struct {
		uids, gids string // "" is no file
		taken      []IDRange
		want       uint32
		fails      string
	}{
		"no file":             {"", "", nil, FirstID, ""},
		"others elsewhere":    {"alice:100000:65536\n", "alice:100000:65536\n", nil, FirstID, ""},
		"others' uids":        {"root:1000000:1001062400\nbob:2001062400:1\n", "", nil, FirstID + 16*count, ""},
		"others' gids":        {"", "# all\nbob:1001062300:200\n\nrubbish\nbob:x:y\nbob:1:99999999999\n", nil, FirstID + count, ""},
		"a comment":           {"#bob:1001062400:65536\n", "", nil, FirstID, ""},
		"others', to the end": {"bob:1001062400:4294967295\n", "", nil, 0, ""},
		"taken":               {"", "", []IDRange{{FirstID + 5, count}, {FirstID + 2*count, count}}, FirstID + 3*count, ""},
		"ours":                {"alice:100000:65536\nlxcboot:200000:131072\n", "lxcboot:200000:131072\n", []IDRange{{200000, count}}, 200000 + count, ""},
		"ours, two lines":     {"lxcboot:200000:65536\nlxcboot:500000:65536\n", "lxcboot:200000:65536\nlxcboot:500000:65536\n", []IDRange{{200000, count}}, 500000, ""},
		"ours, what both say": {"lxcboot:200000:131072\n", "lxcboot:250000:131072\n", nil, 250000, ""},
		"ours, all taken":     {"lxcboot:200000:65536\n", "lxcboot:200000:65536\n", []IDRange{{200000, 1}}, 0, ""},
		"ours, to the end":    {"lxcboot:4294836224:4294967295\n", "lxcboot:4294836224:4294967295\n", []IDRange{{4294836224, count}}, 0, ""},
		"ours, too few":       {"lxcboot:200000:65535\n", "lxcboot:200000:65535\n", nil, 0, ""},
		"ours, in one":        {"lxcboot:200000:65536\n", "", nil, 0, "in both"},
		"ours, apart":         {"lxcboot:200000:65536\n", "lxcboot:300000:65536\n", nil, 0, "in both"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var paths [2]string
			for i, text := range []string{c.uids, c.gids} {
				paths[i] = filepath.Join(dir, []string{"subuid", "subgid"}[i])
				if text != "" {
					if err := os.WriteFile(paths[i], []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			pool, err := readIDs(paths[0], paths[1])
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%+v, %v", pool, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, ok := pool.Find(count, c.taken)
			want := IDRange{c.want, count}
			if c.want == 0 {
				want = IDRange{}
			}
			if !cmp.Equal(got, want) || ok != (c.want != 0) {
				t.Errorf("%+v instead of %+v", got, want)
			}
		})
	}
}
