package cmd

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume/imagefile"
)

func (a *App) newImageSaveCmd() *cobra.Command {
	var to target
	c := &cobra.Command{
		Use: "save IMAGE [--output FILE]", Short: "Write an image to a file, or to standard output", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(images.names(a), false),
		Long: `Write an image, as it was imported, to a file, or to standard output where that is no
terminal. The file is there whole or not at all, of mode 0600, and takes no room for
what is zeros; one that is there already is replaced with --force alone.`,
		Example: `  lxcboot image save busybox --output busybox.qcow2
  lxcboot image save busybox | ssh other lxcboot image import - --name busybox`,
		RunE: a.withStore(func(ctx context.Context, s Store, args []string) error {
			id, err := images.id(ctx, s, args[0])
			if err != nil {
				return err
			}
			return a.writeTo(to, func(f *os.File) error {
				step, done := a.progress("saving " + args[0])
				defer done()
				return s.SaveImage(ctx, id, f, step)
			})
		}),
	}
	a.targetFlags(c, &to)
	c.Flags().StringVar(&to.path, "file", "", "as --output, in OpenStack's word")
	_ = c.Flags().MarkHidden("file")
	return c
}

// target is what something is written to.
type target struct {
	path  string // empty or "-": standard output
	force bool
}

func (a *App) targetFlags(c *cobra.Command, to *target) {
	c.Flags().StringVar(&to.path, "output", "", "file to write; - is standard output, which is the default where it is no terminal")
	c.Flags().BoolVar(&to.force, "force", false, "replace a file that is there")
	_ = c.MarkFlagFilename("output")
}

// writeTo writes something to its target.
func (a *App) writeTo(to target, write func(*os.File) error) error {
	if (to.path == "" || to.path == "-") && isTerminal(a.Out) {
		return failure.Invalid("a disk is nothing for a terminal: give --output FILE, or send standard output elsewhere")
	}
	out, err := imagefile.Create(to.path, a.Out, to.force)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := write(out.File); err != nil {
		return err
	}
	return out.Commit()
}
