package cmd

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume/local"
)

func (a *App) newKeypairCmd() *cobra.Command {
	var public string
	c := &cobra.Command{Use: "keypair", Short: "Manage the keys that --key-name names"}
	add := &cobra.Command{
		Use: "add NAME --public-key FILE", Aliases: []string{"create"}, Short: "Keep ssh public keys under a name", Args: cobra.ExactArgs(1),
		Long: `Keep ssh public keys under a name, for boot --key-name. FILE is a file of one key or several,
a line each, or - for standard input. Keys are made with ssh-keygen: a private key is not kept here.`,
		Example: "  lxcboot keypair add me --public-key ~/.ssh/id_ed25519.pub",
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.print.Check(keyRecord("", nil).Names()); err != nil {
				return err
			}
			return a.addKey(c.Context(), args[0], public)
		},
	}
	add.Flags().StringVar(&public, "public-key", "", "file of the public keys; - is standard input")
	_ = add.MarkFlagRequired("public-key")
	c.AddCommand(add,
		&cobra.Command{Use: "list", Short: "List keys", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			names, err := a.keyNames(c.Context())
			if err != nil {
				return err
			}
			l := listing{Columns: []string{"Name", "Fingerprint", "Type"}}
			var damaged []error
			for _, name := range names {
				keys, err := a.readKeys(c.Context(), name)
				damaged = append(damaged, err)
				prints, types := describeKeys(keys)
				l.Rows = append(l.Rows, []any{name, prints, types})
			}
			return errors.Join(append([]error{a.print.List(l)}, damaged...)...)
		}},
		&cobra.Command{Use: "show NAME", Short: "Show one key", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.keyNames, false), RunE: func(c *cobra.Command, args []string) error {
			keys, err := a.readKeys(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print.Record(keyRecord(args[0], keys))
		}},
		&cobra.Command{
			Use: "delete NAME...", Short: "Delete keys", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completer(a.keyNames, true),
			Long: "Delete keys here. What was written into instances stays there.",
			RunE: func(_ *cobra.Command, args []string) error {
				return each(args, func(name string) error {
					err := checkKeyName(name)
					if err == nil {
						err = os.Remove(a.keyPath(name))
					}
					return noKey(name, err)
				})
			},
		})
	return c
}

// keyPath is where keys of a name are kept.
func (a *App) keyPath(name string) string {
	return filepath.Join(a.settings.StateDir, "keypairs", name+".pub")
}

var validKeyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@ -]*$`)

// checkKeyName refuses a name that is none: the file is named by it.
func checkKeyName(name string) error {
	if len(name) > 200 || !validKeyName.MatchString(name) {
		return failure.Invalid("the name %q of a key must be of 1 to 200 letters, digits, '.', '_', '@', '-' and spaces, and begin with a letter or a digit", name)
	}
	return nil
}

// noKey says of a key that its file is not there.
func noKey(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &hintError{failure.Of(state.ErrNotFound, "keypair %q not found", name), "lxcboot keypair list shows what there is"}
	}
	return err
}

func (a *App) addKey(ctx context.Context, name, file string) error {
	if err := checkKeyName(name); err != nil {
		return err
	}
	if file == "-" {
		file = "/dev/stdin"
	}
	data, _, err := readInput(ctx, file, maxKeys)
	if err != nil {
		return inputError("--public-key: cannot read the ssh key", err)
	}
	keys, err := seed.ParseSSHKeys(data)
	if err != nil {
		return fmt.Errorf("--public-key %s: %w", file, err)
	}
	path := a.keyPath(name)
	if err := local.MakeDir(a.settings.StateDir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return failure.Of(state.ErrExists, "there is a keypair %q", name)
	}
	if err := durable.WriteFile(path, []byte(strings.Join(keys, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	return a.printMade(keyRecord(name, keys), fmt.Sprintf("keypair %q is added", name), "lxcboot keypair show shows it, and lxcboot keypair delete removes it")
}

// readKeys reads the keys of a name.
func (a *App) readKeys(ctx context.Context, name string) ([]string, error) {
	if err := checkKeyName(name); err != nil {
		return nil, err
	}
	data, _, err := readInput(ctx, a.keyPath(name), maxKeys)
	if err != nil {
		return nil, noKey(name, err)
	}
	keys, err := seed.ParseSSHKeys(data)
	if err != nil {
		err = fmt.Errorf("keypair %q (%s): %w", name, a.keyPath(name), err)
	}
	return keys, err
}

func keyRecord(name string, keys []string) record {
	prints, types := describeKeys(keys)
	return record{{"name", name}, {"fingerprint", prints}, {"type", types}, {"public_key", keys}}
}

// describeKeys gives the fingerprints of keys, as ssh-keygen -l prints them, and their types.
func describeKeys(keys []string) (prints, types []string) {
	for _, key := range keys {
		fields := strings.Fields(key)
		for i, f := range fields[:len(fields)-1] {
			blob, err := base64.StdEncoding.DecodeString(fields[i+1])
			if err == nil && len(blob) > 4+len(f) && string(blob[4:4+len(f)]) == f { // there may be options before it
				sum := sha256.Sum256(blob)
				prints, types = append(prints, "SHA256:"+base64.RawStdEncoding.EncodeToString(sum[:])), append(types, f)
				break
			}
		}
	}
	return prints, types
}
