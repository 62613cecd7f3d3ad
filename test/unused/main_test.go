package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestUnused(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"go.mod": "module example.org/m\n\ngo 1.26\n",
		"main.go": `package main

import (
	"fmt"

	"example.org/m/pkg/a"
)

func main() {
	var t a.Thing
	var d a.Doer = t
	d.Do()
	fmt.Println(t)
}
`,
		"pkg/a/a.go": `package a

type Thing struct{ Field int }

func (Thing) String() string { return "used by fmt" }
func (Thing) Do()            { helper[int]() }
func (Thing) Other()         {}
func (Thing) Unwrap() error  { return nil }

type Doer interface {
	Do()
	Other()
}

func helper[T any]() {}

func OnlyTests() {}

const Word = "word"
`,
		"pkg/a/a_test.go": `package a

import "testing"

func TestThing(t *testing.T) { OnlyTests() }
`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := unused(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"pkg/a/a.go:12: Other is not used",
		"pkg/a/a.go:17: OnlyTests is not used",
		"pkg/a/a.go:19: Word is not used",
		"pkg/a/a.go:7: Other is not used",
	}
	if !slices.Equal(found, want) {
		t.Errorf("found %q\nwant  %q", found, want)
	}
}
