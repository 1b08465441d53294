@echo off
rem Starts the module with any Python from 3.10 on that this machine has, and installs it before that where
rem it is not installed yet. It takes the arguments of python supervisor: a port, flags, or chat.

setlocal EnableExtensions DisableDelayedExpansion
set "program=RUN.bat"
set "here=%~dp0"
set "self=%~f0"
set "errorlevel="

call :find_python
if not defined python goto end

rem install.py takes --home, and none of the other flags; to cmd --home=DIR is two words, too.
set "home="
:next_word
if "%~1"=="" goto start
if "%~1"=="--home" set home=--home "%~2"
shift
goto next_word

:start
"%python%" %switch% "%here%supervisor" %home% --help >nul 2>nul <nul
if "%errorlevel%"=="0" goto serve
"%python%" %switch% "%here%install.py" %home% >nul
set "code=%errorlevel%"
if not "%code%"=="0" goto end

:serve
"%python%" %switch% "%here%supervisor" %*
set "code=%errorlevel%"

:end
if not "%code%"=="0" if not "%code%"=="130" call :keep_open
exit /b %code%

rem ---- from here on INSTALL.bat and RUN.bat are the same

:find_python
rem Sets python and switch, or says in one sentence why there is none, with code 2 as for every wrong setting.
set "python="
set "found=nothing"
set "code=2"
set "switch=-3"
call :look_for py.exe
if defined python exit /b
set "switch="
call :look_for python.exe
if defined python exit /b
call :look_for python3.exe
if defined python exit /b
set "remedy=get one from https://www.python.org/downloads/, tick Add python.exe to PATH in its installer, and start %program% again."
if "%found%"=="nothing" >&2 echo %program% needs Python 3.10 or newer, and there is none: %remedy%
if "%found%"=="store" >&2 echo %program% needs Python 3.10 or newer, and what Windows calls python only opens its Store: %remedy%
if "%found%"=="broken" >&2 echo %program% needs Python 3.10 or newer, and the one of this machine does not start: %remedy%
if "%found%"=="old" >&2 echo %program% needs Python 3.10 or newer, and the one of this machine is older: %remedy%
exit /b

:look_for
rem In each folder of PATH, then where Python's installer puts its launcher for those who did not tick that box.
rem Nothing here is given to call but a plain name: call reads a percent sign twice.
set "folders=%LOCALAPPDATA%\Programs\Python\Launcher;%SystemRoot%"
if defined PATH set "folders=%PATH:"=%;%folders%"
for %%D in ("%folders:;=" "%") do (
    if not defined python if not "%%~D"=="" if exist "%%~D\%1" (
        set "folder=%%~D"
        set "candidate=%%~D\%1"
        call :try
    )
)
exit /b

:try
rem The python.exe that Windows brings along opens the Store, so it is never started. A Python that came from
rem the Store has a folder of its own beside it. A py.exe is never that one.
if "%switch%"=="-3" goto start_it
if /i "%candidate:\Microsoft\WindowsApps\=%"=="%candidate%" goto start_it
set "candidate="
for /f "delims=" %%P in ('dir /b /ad "%folder%\PythonSoftwareFoundation.Python*" 2^>nul') do (
    if exist "%folder%\%%P\python.exe" set "candidate=%folder%\%%P\python.exe"
)
if defined candidate goto start_it
if "%found%"=="nothing" set "found=store"
exit /b

:start_it
"%candidate%" %switch% -c "import sys; sys.exit(3 if sys.version_info < (3, 10) else 0)" >nul 2>nul <nul
set "answer=%errorlevel%"
if "%answer%"=="0" set "python=%candidate%"
if "%answer%"=="3" set "found=old"
if "%answer%"=="0" exit /b
if not "%found%"=="old" if not "%switch%"=="-3" set "found=broken"
exit /b

:keep_open
rem A window that a double-click opened would close over what it says, so it waits for a key. Nothing waits
rem where nobody could press one: in a CI, with another stdin, in a terminal, below another script.
if defined CI exit /b
"%SystemRoot%\System32\timeout.exe" /t 0 >nul 2>nul
if not "%errorlevel%"=="0" exit /b
set "line=%cmdcmdline:"=?%"
set "line=%line:*/c =%"
if /i "%line%"=="??%self%? ?" pause
exit /b
