//go:build guests

package guests_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// limit is what one check may take on a busy host before it counts as hanging.
const limit = 8 * time.Minute

func TestGuests(t *testing.T) {
	begin(t)
	for i, g := range guests {
		t.Run(g.name, func(t *testing.T) {
			if testing.Short() && !g.quick {
				t.Skip("it is not one of the quick ones")
			}
			dir, err := g.image()
			if err != nil {
				t.Fatal(err)
			}
			try(t, g, dir, fmt.Sprintf("%s-%d", site.unique, i))
			g.inDocs(t, dir)
		})
	}
}

// try makes all checks of a guest whose image is in dir.
func try(t *testing.T, g guest, dir, name string) {
	if _, err := lxcboot(t.Context(), "image", "import", filepath.Join(dir, "disk.raw"), "--name", g.name); err != nil {
		t.Fatal(err)
	}
	b := &box{guest: g, name: name, data: "first", key: filepath.Join(site.work, "key")}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if t.Failed() {
			t.Log(b.explain(ctx))
		}
		for _, args := range [][]string{{"delete", b.name}, {"image", "delete", g.name}} {
			if _, err := lxcboot(ctx, args...); err != nil {
				t.Error(err)
			}
		}
	})
	for _, c := range checks {
		if c.of != nil && !c.of(g) {
			continue
		}
		ok := t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			began := time.Now()
			if err := c.do(ctx, b); err != nil {
				t.Error(err)
			}
			t.Log(strings.Join(append(b.notes, fmt.Sprintf("%.1f s", time.Since(began).Seconds())), "\n"))
			b.notes = nil
		})
		if !ok && c.name == "boot" {
			return // there is nothing to look at
		}
	}
}

// explain is what the guest says of itself.
func (b *box) explain(ctx context.Context) string {
	var all strings.Builder
	for _, args := range [][]string{{"show", b.name}, {"logs", b.name}, {"exec", b.name, "--", "sh", "-c", "ps aux; ip address; journalctl --no-pager -p warning -b | tail -n 40"}} {
		out, err := lxcboot(ctx, args...)
		if err != nil {
			out = err.Error()
		}
		if len(out) > 8000 {
			out = "… " + out[len(out)-8000:]
		}
		fmt.Fprintf(&all, "== %s\n%s\n", args[0], out)
	}
	return all.String()
}
