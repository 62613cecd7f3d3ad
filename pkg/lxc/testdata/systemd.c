// An init that hears the first request to power off and comes to nothing with it, as
// systemd may while it still loads its units; with an argument, as one that waits for a
// group to be empty until it is told to load its units again.
#include <signal.h>
#include <unistd.h>

static volatile sig_atomic_t heard, loaded;

static void hear(int sig)
{
	(void)sig;
	heard++;
}

static void load(int sig)
{
	(void)sig;
	loaded = heard;
}

int main(int argc, char **argv)
{
	(void)argv;
	signal(SIGRTMIN + 4, hear);
	signal(SIGHUP, load);
	while (argc > 1 ? !loaded : heard < 2)
		pause();
	return 0;
}
