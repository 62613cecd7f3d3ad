//go:build guests

package guests_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const page = "../../docs/guests.md"

// rows are the page's, by the guest's name.
func rows(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| (debian\S+) \|.*$`).FindAllStringSubmatch(string(text), -1) {
		if found[m[1]] != "" {
			t.Errorf("%s has two rows of %s", page, m[1])
		}
		found[m[1]] = m[0]
	}
	return found
}

// TestDocs: each guest has its row, and each row its guest.
func TestDocs(t *testing.T) {
	found := rows(t)
	for _, g := range guests {
		if found[g.name] == "" {
			t.Errorf("%s has no row of %s", page, g.name)
		}
		delete(found, g.name)
	}
	for name := range found {
		t.Errorf("%s has a row of %s, which is not tried", page, name)
	}
}

// telling are the packages whose versions a row has, where the guest has them.
var telling = []string{
	"systemd", "sysvinit-core", "openrc", "runit", "busybox-static", "ifupdown", "isc-dhcp-client", "dhcpcd-base", "udhcpc",
	"netplan.io", "network-manager", "cloud-init", "openssh-server",
}

// row is what the page has to say of a guest whose image is in dir.
func (g guest) row(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "packages"))
	if err != nil {
		return "", err
	}
	version := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		version[name] = upstream.FindStringSubmatch(v)[1]
	}
	var has []string
	for _, p := range telling {
		if v := version[p]; v != "" && !(p == "systemd" && g.init != "systemd") {
			has = append(has, p+" "+v)
		}
	}
	root := g.fs
	if g.cloud {
		root += " on a GPT"
	}
	if g.overlay != "" {
		root += ", " + g.overlay + " over it"
	}
	var made []string
	for _, c := range checks {
		if c.of == nil || c.of(g) {
			made = append(made, c.name)
		}
	}
	return fmt.Sprintf("| %s | %s | %s | %s |", g.name, root, strings.Join(has, ", "), strings.Join(made, ", ")), nil
}

// upstream is a version without Debian's own part.
var upstream = regexp.MustCompile(`^(?:\d+:)?([0-9A-Za-z.~]+)`)

// major is a version's first number: what is behind it changes while a suite is looked after.
var major = regexp.MustCompile(`( \d+)[0-9A-Za-z.~]*`)

// inDocs sees that the page says of a guest what it was found to be.
func (g guest) inDocs(t *testing.T, dir string) {
	t.Helper()
	want, err := g.row(dir)
	if err != nil {
		t.Fatal(err)
	}
	rough := func(row string) string { return major.ReplaceAllString(row, "$1") }
	if got := rows(t)[g.name]; rough(got) != rough(want) {
		t.Errorf("%s says:\n%s\nand it is\n%s", page, got, want)
	}
}
