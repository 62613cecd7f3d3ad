package openstack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKeptToken signs in once for several commands, and anew when the token is refused,
// about to expire, for other credentials, or not readable.
func TestKeptToken(t *testing.T) {
	c := newCloud(t)
	dir := filepath.Join(t.TempDir(), "tokens")
	signedIn := 0
	command := func(what string, want int) {
		t.Helper()
		s := c.open(t, func(o *Options) { o.TokenDir = dir })
		if _, err := s.Volumes(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		c.locked(func() {
			if signedIn += want; len(c.issued) != signedIn {
				t.Errorf("%s: signed in %d times, want %d", what, len(c.issued)-signedIn+want, want)
				signedIn = len(c.issued)
			}
		})
		if d := s.Describe(); !strings.Contains(d, "user demo, project demo, region One") {
			t.Errorf("%s: %s", what, d)
		}
	}
	file := func() string {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%q, %v", files, err)
		}
		return files[0]
	}
	command("the first", 1)
	command("the second", 0)
	kept := file()
	for path, want := range map[string]os.FileMode{kept: 0o600, dir: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if data, err := os.ReadFile(kept); err != nil || strings.Contains(string(data), fakePassword) {
		t.Errorf("the password is in %s, or %v", data, err)
	}

	c.expire()
	command("refused", 1)
	command("after that", 0)
	for what, spoil := range map[string]func(string) string{
		"broken":      func(s string) string { return s[:len(s)/2] },
		"soon no one": func(s string) string { return strings.ReplaceAll(s, "2099-", "2020-") },
		"no catalog":  func(s string) string { return strings.ReplaceAll(s, "volumev3", "other") },
	} {
		data, err := os.ReadFile(kept)
		if err == nil {
			err = os.WriteFile(kept, []byte(spoil(string(data))), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		command(what, 1)
		command("after "+what, 0)
	}

	c.setenv(t)
	t.Setenv("OS_PASSWORD", "wrong-but-secret")
	if _, err := Open(t.Context(), Options{TokenDir: dir}); err == nil {
		t.Error("another password uses the kept token")
	}
	t.Setenv("OS_PASSWORD", fakePassword)
	t.Setenv("OS_USERNAME", "other")
	if s, err := Open(t.Context(), Options{TokenDir: dir}); err != nil || s.who.user != "other" {
		t.Errorf("another user: %+v, %v", s, err)
	}
	signedIn++

	// What has expired goes when another is kept.
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(kept, old, old); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OS_USERNAME", "third")
	if _, err := Open(t.Context(), Options{TokenDir: dir}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(kept); !os.IsNotExist(err) {
		t.Errorf("the expired one: %v", err)
	}

	// A directory that others may write is not used.
	signedIn = len(c.issued)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	command("everybody's directory", 1)
	command("everybody's directory again", 1)
}
