package cmd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestKeypairs holds that keys are kept and found by --key-name, that their fingerprints are
// those of ssh-keygen, and that what is no public key or no name is refused.
func TestKeypairs(t *testing.T) {
	state := clean(t)
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want, err := exec.Command("ssh-keygen", "-l", "-f", key+".pub").Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, out, stderr := run(t, "keypair", "list", "-f", "json"); out != "[]\n" || stderr != "" {
		t.Errorf("none: %q, %q", out, stderr)
	}
	if code, out, stderr := run(t, "keypair", "add", "me", "--public-key", key+".pub", "-f", "value", "-c", "fingerprint"); code != 0 || !strings.Contains(string(want), " "+strings.TrimSpace(out)+" ") {
		t.Fatalf("add: %d, %q is not of %q; %s", code, out, want, stderr)
	}
	if info, err := os.Stat(filepath.Join(state, "keypairs", "me.pub")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, out, _ := run(t, "keypair", "ls", "-f", "value", "-c", "Name", "-c", "Type"); out != "me ssh-ed25519\n" {
		t.Errorf("list: %q", out)
	}
	if _, out, _ := run(t, "keypair", "show", "me"); !strings.Contains(out, "me@here") {
		t.Errorf("show: %q", out)
	}
	if _, out, _ := run(t, "__complete", "boot", "--key-name", ""); !strings.Contains(out, "me\n") {
		t.Errorf("completion: %q", out)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"add me --public-key " + key + ".pub", exitConflict, `there is a keypair "me"`},
		{"add you --public-key " + key, exitUsage, "this is a private key"},
		{"add you --public-key /nonexistent", exitUsage, "--public-key: cannot read"},
		{"add ../you --public-key " + key + ".pub", exitUsage, `the name "../you" of a key`},
		{"add you", exitUsage, "it needs --public-key"},
		{"show you", exitNotFound, `keypair "you" not found`},
		{"delete you ../you", exitNotFound, "hint: lxcboot keypair list"},
		{"delete me", exitOK, ""},
		{"show me", exitNotFound, "not found"},
	} {
		if code, _, stderr := run(t, append([]string{"keypair"}, strings.Fields(c.args)...)...); code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit code %d, %s", c.args, code, stderr)
		}
	}
}

func TestChangeTags(t *testing.T) {
	for _, c := range []struct {
		have, add string
		want      string
		fails     string
	}{
		{"a b", "c", "a b c", ""},
		{"a b", "b", "a b", ""},
		{"", "a,b", "a b", ""},
		{"a", "x/y", "", "a tag has 1 to 60 characters"},
		{strings.Repeat("x ", 1) + manyTags(49), "y", "", "51 tags"},
	} {
		added, err := instanceTags("--tag", []string{c.add})
		var got []string
		if err == nil {
			got, err = addTags(strings.Fields(c.have), added)
		}
		if c.fails == "" && (err != nil || strings.Join(got, " ") != c.want) || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%q and %q: %q, %v", c.have, c.add, got, err)
		}
	}
}

// manyTags are so many different tags.
func manyTags(n int) (all string) {
	for i := range n {
		all += "t" + strings.Repeat("i", i) + " "
	}
	return all
}
