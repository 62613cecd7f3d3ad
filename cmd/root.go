// Package cmd is the command line of lxcboot: its commands, settings, output and
// exit codes.
package cmd

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/viper"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/report"
)

// Version is the version of the build.
var Version = "devel"

// App is what every command has: streams, settings, and the things that they open.
type App struct {
	In       *os.File
	Out, Err *os.File

	v        *viper.Viper
	settings Settings
	config   string // the file that was named; empty: the usual one
	// configured is what the file of the configuration has
	configured []byte
	log        *slog.Logger
	print      report.Printer
	quiet      bool
	looking    bool // the command makes no state directory

	store   Store
	domains *lxc.Host
	closers []func()
}

// Main runs the command line and returns the exit code.
func Main() int {
	begin()
	app := &App{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	return app.Run(os.Args[1:])
}

// begin makes this process independent of who started it. Modes are set, and not left
// to a caller's umask: the run directory that a umask of 077 makes is closed to the root
// of a container. And nothing that is started here, and outlives this process, is to
// hold what the caller had open: a lock, or a pipe whose end somebody waits for.
func begin() {
	unix.Umask(0o022)
	_ = host.CloseOnExec() // a kernel without it is too old for a boot
}

// Run runs one command line and returns its exit code. An interrupt cancels the
// command, which then undoes what it did; so does the end of the terminal, unless
// nohup says otherwise. Further signals do not break the undoing.
func (a *App) Run(args []string) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	defer signal.Stop(signals)
	go func() {
		for s := range signals {
			cancel(&interruptedError{s.(syscall.Signal)})
		}
	}()
	root := a.newRootCmd()
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	a.close()
	if err == nil {
		return exitOK
	}
	code, ours := a.report(interruption(ctx, err))
	if ours && c.CommandPath() == "lxcboot run" {
		return exitRun
	}
	return code
}

func (a *App) close() {
	for _, c := range slices.Backward(a.closers) {
		c()
	}
	a.closers = nil
	// The connection to libvirt ends with the process: a goodbye takes a round trip.
	a.store, a.domains = nil, nil
}

// Root gives all commands, for the reference that is made of them.
func Root() *cobra.Command { return (&App{}).newRootCmd() }

func (a *App) newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "lxcboot",
		Short: "Boot LXC containers from block device volumes",
		Long: `lxcboot boots LXC containers (libvirt's LXC driver) from block device volumes,
with the semantics of OpenStack's "nova boot". Volumes come from Cinder and Glance
where a cloud is configured, and from an embedded store otherwise.`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: a.prepare,
	}
	a.print.Out = a.Out
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if given := c.Flags().Args(); c.HasSubCommands() && len(given) > 0 { // it is no flag of a command that there is not
			return unknownCommand(c, given)
		}
		return usageOf(c, flagText(c, err))
	})
	root.AddGroup(&cobra.Group{ID: "instance", Title: "Instances:"}, &cobra.Group{ID: "store", Title: "Images and volumes:"}, &cobra.Group{ID: "host", Title: "This host:"})
	a.bindSettings(root)
	flags := root.PersistentFlags()
	flags.StringVarP(&a.print.Format, "format", "f", "table", "output: table, json, yaml or value")
	flags.StringArrayVarP(&a.print.Columns, "column", "c", nil, "only this column (can be repeated)")
	flags.Int("max-width", 0, "widest table, in columns; 0: no limit (default: the terminal's width)")
	flags.Bool("fit-width", false, "fit tables to the width also where stdout is no terminal (COLUMNS, or 80)")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "no progress and no hints; warnings and errors stay")
	_ = root.RegisterFlagCompletionFunc("column", cobra.NoFileCompletions)
	_ = root.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(report.Formats, cobra.ShellCompDirectiveNoFileComp))
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("instance", a.newBootCmd(), a.newRunCmd(), a.newListCmd(), a.newShowCmd(), a.newLogsCmd(), a.newEventsCmd(), a.newTopCmd(), a.newConsoleCmd(), a.newExecCmd(), a.newCpCmd(),
		a.newStopCmd(), a.newStartCmd(), a.newRebootCmd(), a.newDeleteCmd(), a.newRenameCmd(), a.newResizeCmd(), a.newSetCmd(), a.newUnsetCmd(), a.newWaitCmd())
	add("store", a.newImageCmd(), a.newVolumeCmd(), a.newSnapshotCmd(), a.newFlavorCmd(), a.newKeypairCmd())
	add("host", a.newDoctorCmd(), a.newSetupCmd(), a.newAutostartCmd(), a.newRepairCmd(), a.newAdoptCmd(), a.newOCFCmd())
	root.AddCommand(a.newVersionCmd(), a.newEndedCmd(), a.newAgainCmd(), a.newHookCmd(), a.newViewsCmd(), exitCodesTopic())
	root.SetHelpCommand(newHelpCmd())
	root.InitDefaultCompletionCmd()
	alias(root)
	wrapUsage(root)
	pointToManual(root)
	return root
}

// prepare is done before every command that runs.
func (a *App) prepare(c *cobra.Command, _ []string) error {
	if !slices.Contains(report.Formats, a.print.Format) {
		return failure.Invalid("--format %q is not one of %s", a.print.Format, strings.Join(report.Formats, ", "))
	}
	if err := cmp.Or(missingFlags(c), emptyFlags(c)); err != nil {
		return err
	}
	most, _ := c.Flags().GetInt("max-width")
	fit, _ := c.Flags().GetBool("fit-width")
	a.print.Width = a.tableWidth(most, c.Flags().Changed("max-width"), fit)
	a.looking = looks(c)
	if settingless(c) {
		return nil
	}
	if err := a.load(c); err != nil {
		return err
	}
	if a.settings.Debug {
		a.debug()
	}
	return nil
}

// debug has all told on stderr that is asked of the cloud and of libvirt, whose library
// tells that itself, and the commands that are run.
func (a *App) debug() {
	a.log = slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: slog.LevelDebug}))
	slog.SetDefault(a.log)
	os.Setenv("LIBVIRT_LOG_FILTERS", "1:libvirt")
	os.Setenv("LIBVIRT_LOG_OUTPUTS", "1:stderr")
}

// settingless says whether a command works whatever the configuration says: who has
// a wrong one may still ask for help.
func settingless(c *cobra.Command) bool {
	for ; c.HasParent(); c = c.Parent() {
		switch c.Name() {
		case "help", "version", "completion", "docs", cobra.ShellCompRequestCmd:
			return true
		}
	}
	return false
}

// needRoot refuses what only root can do.
func needRoot() error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	return nil
}
